// Training with weights that stream, from the checkpoint and from the cache of converted ones, and what that cache does with damage.
// slow
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { layoutOf, lengthOfTheta } from "../../src/adapters/layout.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { convert } from "../../src/commands/convert/convert.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { initModel } from "../../src/index.ts";
import { loadBase } from "../../src/models/base.ts";
import { nodeMachine } from "../../src/platform/node/engine/machine.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { partCache } from "../../src/platform/node/part-cache.ts";
import type { Machine } from "../../src/runtime/machine.ts";
import { cacheEntries, clearCache, type PartCache } from "../../src/runtime/part-cache.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { chooseExecution, type Execution, type MemoryMode } from "../../src/train/execution.ts";
import { loraGraph } from "../../src/train/training-graph.ts";
import { refused } from "../helpers/assert.ts";
import { largeConfig, type StepOptions, twoSteps } from "../helpers/large-decoder.ts";
import { compiled } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${temporaryFolder()}/base`;
await initModel(largeConfig, base);

const cacheIn = (folder: string, changed: Partial<PartCache> = {}): PartCache => ({
  ...partCache({ LOWRANK_CACHE: folder }),
  leastBytes: 0,
  ...changed,
});

/** The file of the one entry. */
function entryOf(folder: string): { folder: string; weights: string } {
  const names = readdirSync(`${folder}/weights`).filter((name) => !name.endsWith(".lock"));
  assert.equal(names.length, 1, names.join());
  const entry = `${folder}/weights/${names[0]}`;
  return { folder: entry, weights: `${entry}/weights.safetensors` };
}
const madeAt = (folder: string) => {
  const { ino, mtimeNs } = statSync(entryOf(folder).weights, { bigint: true });
  return `${ino} ${mtimeNs}`;
};

const forms: StepOptions[] = [
  { baseDtype: "int8", integers: true },
  { baseDtype: "int8", integers: false },
  { baseDtype: "int4", integers: false },
  { baseDtype: "bfloat16", integers: false },
  // Numbers that the checkpoint has in another form than the engine takes, as those of a quantized file: they become float32 on the way.
  { baseDtype: "float32", integers: false },
];
for (const form of forms) {
  test(`${form.baseDtype}${form.integers ? " in integers" : ""}: a streamed run computes what one in memory does, to the bit`, async (t) => {
    const cache = cacheIn(temporaryFolder(t));
    const streamed = await twoSteps(base, { ...form, memory: "stream", cache });
    const inMemory = await twoSteps(base, { ...form, memory: "recompute", cache: cacheIn("off") });
    assert.ok(streamed.gradients.some((gradient) => gradient.some((value) => Math.abs(value) > 1e-4)));
    assert.deepEqual(streamed, inMemory);
    if (form.integers) assert.deepEqual(await twoSteps(base, { ...form, memory: "stream", cache }), inMemory, "from the cache");
  });
}

for (const dtype of ["f16", "q8_0"] as const) {
  test(`a GGUF file in ${dtype} streams without a cache: rows in llama.cpp's order and blocks become what they are in memory`, async (t) => {
    const output = `${temporaryFolder(t)}/large.gguf`;
    await convert(withGguf(nodeFiles), { input: base, output, dtype });
    const waits: number[] = [];
    const off = { cache: cacheIn("off"), onWaited: (seconds: number) => waits.push(seconds) };
    const streamed = await twoSteps(output, { baseDtype: "float32", memory: "stream", ...off });
    assert.deepEqual(streamed, await twoSteps(output, { baseDtype: "float32", memory: "recompute", ...off }));
    assert.ok(Math.max(...waits) > 0);
  });
}

test("a base that cannot be read to its end leaves no tensor behind", async () => {
  const [made, freed] = [new Set<bigint>(), new Set<bigint>()];
  const counting: Machine = {
    ...nodeMachine,
    tensor(...given) {
      const handle = nodeMachine.tensor(...given);
      made.add(handle);
      return handle;
    },
    free(handle) {
      freed.add(handle);
      nodeMachine.free(handle);
    },
  };
  let reads = 0;
  const breaking = {
    ...nodeFiles,
    read: (...given: Parameters<typeof nodeFiles.read>) =>
      ++reads > 12 ? Promise.reject(new Error("gone")) : nodeFiles.read(...given),
  };
  const opening = twoSteps(base, {
    baseDtype: "float32",
    memory: "recompute",
    files: breaking,
    machine: counting,
    cache: cacheIn("off"),
  });
  await assert.rejects(opening, /gone/);
  assert.ok(made.size > 5 && [...made].every((handle) => freed.has(handle)), `${freed.size} of ${made.size} freed`);
});

test("large weights are read where their stage runs, of tables the rows of the batch; the rest is in memory", async (t) => {
  const read: { file: string; length: number }[] = [];
  const counting = {
    ...nodeFiles,
    read: (file: string, offset: number, length: number, into?: Uint8Array) => {
      read.push({ file, length });
      return nodeFiles.read(file, offset, length, into);
    },
  };
  const { vocab_size: vocab, hidden_size: width } = largeConfig;
  await twoSteps(base, { baseDtype: "bfloat16", memory: "stream", cache: cacheIn(temporaryFolder(t)), files: counting });
  const lengths = read.filter(({ file }) => file.endsWith("model.safetensors")).map(({ length }) => length);
  assert.ok(!lengths.includes(2 * vocab * width), "the table is never read whole");
  assert.ok(lengths.includes(2 * width), "single rows are");
});

test("a disk that is slow is waited for, and the wait is counted", async () => {
  const delay = 20; // ms
  const slow = {
    ...nodeFiles,
    read: async (...given: Parameters<typeof nodeFiles.read>) => {
      await new Promise((resolve) => setTimeout(resolve, delay));
      return nodeFiles.read(...given);
    },
  };
  const waits: number[] = [];
  await twoSteps(base, { baseDtype: "bfloat16", memory: "stream", files: slow, onWaited: (seconds) => waits.push(seconds) });
  const long = waits.filter((seconds) => seconds >= delay / 2000);
  assert.ok(long.length > 0 && waits.length > long.length, `${long.length} of ${waits.length} stages waited`);
});

test("what the cache will hold is known before: what is slow to convert, and all that streams in another form than it is stored in", async (t) => {
  const { config: model, modules: known } = await loadBase(nodeFiles, base);
  const config = loraConfig({ rank: 2, alpha: 4, targetModules: "all-linear" });
  const trained = { config, modules: matchModules(known, config, model.modelType) };
  const graph = loraGraph(lossGraph(model, { maxTargets: 40, maxLength: 20 }), trained, false);
  const entries = layoutOf(trained);
  const cacheOf = (baseDtype: Execution["baseDtype"], memory: MemoryMode, stored: string) => {
    const sizes = () => [{ rows: 2, width: 20, targets: 38 }];
    const needs = { graph, entries, trainable: lengthOfTheta(entries), dtypeOf: () => stored, sizes };
    return chooseExecution({ baseDtype, memory }, needs).cache;
  };
  const folder = temporaryFolder(t);
  await twoSteps(base, { baseDtype: "int8", memory: "stream", cache: cacheIn(folder) });
  const [entry] = await cacheEntries(cacheIn(folder));
  const expected = cacheOf("int8", "stream", "bfloat16");
  assert.ok(Math.abs(expected / entry!.bytes - 1) < 0.01, `${expected} of ${entry!.bytes}`);
  assert.equal(cacheOf("bfloat16", "stream", "bfloat16"), 0);
  assert.ok(cacheOf("bfloat16", "stream", "float32") > expected);
  assert.equal(cacheOf("bfloat16", "recompute", "float32"), 0);
  assert.equal(cacheOf("float32", "stream", "q4_k"), 0, "they become float32 on the way");
});

test("the second opening reads the cache, a run in memory too", async (t) => {
  const folder = temporaryFolder(t);
  const form = { baseDtype: "int8" } as const;
  const first = await twoSteps(base, { ...form, memory: "recompute", cache: cacheIn(folder) });
  const made = madeAt(folder);
  const read: string[] = [];
  const counting = {
    ...nodeFiles,
    read: (file: string, offset: number, length: number, into?: Uint8Array) => {
      if (length > 1e6) read.push(file);
      return nodeFiles.read(file, offset, length, into);
    },
  };
  const second = await twoSteps(base, { ...form, memory: "recompute", cache: cacheIn(folder), files: counting });
  assert.deepEqual(second, first);
  assert.equal(madeAt(folder), made);
  assert.ok(read.length > 0 && read.every((file) => file === entryOf(folder).weights), read.join("\n"));
  const [entry] = await cacheEntries(cacheIn(folder));
  assert.equal(entry!.base, base);
  assert.ok(entry!.isCurrent && entry!.forms["int8"]! > 0 && entry!.bytes > 1e6);
});

test("what is small is converted at every start, and leaves nothing in the cache", async (t) => {
  const folder = temporaryFolder(t);
  await twoSteps(base, { baseDtype: "int8", memory: "recompute", cache: cacheIn(folder, { leastBytes: 1e9 }) });
  assert.ok(!existsSync(`${folder}/weights`));
});

const damages: Record<string, (entry: { folder: string; weights: string }) => void> = {
  "a byte of a weight": ({ weights }) => {
    const bytes = readFileSync(weights);
    bytes[bytes.length - 1000]! ^= 1;
    writeFileSync(weights, bytes);
  },
  "a file that was cut": ({ weights }) => writeFileSync(weights, readFileSync(weights).subarray(0, 100_000)),
  "a file of another": ({ weights }) => writeFileSync(weights, readFileSync(`${base}/model.safetensors`)),
  "an entry for other weights": ({ folder }) => {
    const entry = JSON.parse(readFileSync(`${folder}/entry.json`, "utf8"));
    writeFileSync(`${folder}/entry.json`, JSON.stringify({ ...entry, key: "0".repeat(40) }));
  },
  "no entry.json": ({ folder }) => writeFileSync(`${folder}/entry.json`, "{"),
};
/** A cache with an entry for the base in int4, and what the run computed that made it. */
const filled = temporaryFolder();
const right = await twoSteps(base, { baseDtype: "int4", memory: "stream", cache: cacheIn(filled) });
/** A copy of that cache. */
function copyOfFilled(t: TestContext) {
  const folder = temporaryFolder(t);
  cpSync(filled, folder, { recursive: true });
  return { folder, options: { baseDtype: "int4", memory: "stream", cache: cacheIn(folder) } satisfies StepOptions };
}

for (const [name, damage] of Object.entries(damages)) {
  test(`${name}: the entry is made again`, async (t) => {
    const { folder, options } = copyOfFilled(t);
    const bytes = readFileSync(entryOf(folder).weights);
    damage(entryOf(folder));
    const made = madeAt(folder);
    assert.deepEqual(await twoSteps(base, options), right);
    assert.notEqual(madeAt(folder), made);
    assert.ok(readFileSync(entryOf(folder).weights).equals(bytes));
  });
}

test("a file with other times and the same content is used", async (t) => {
  const { folder, options } = copyOfFilled(t);
  utimesSync(entryOf(folder).weights, 1, 1);
  const made = madeAt(folder);
  assert.deepEqual(await twoSteps(base, options), right);
  assert.equal(madeAt(folder), made);
});

test("an entry whose base has changed is removed when another is made, and so is what a killed process left; other files stay", async (t) => {
  const folder = temporaryFolder(t);
  const changing = `${temporaryFolder(t)}/base`;
  await initModel(largeConfig, changing);
  const options: StepOptions = { baseDtype: "int4", memory: "stream", cache: cacheIn(folder) };
  await twoSteps(changing, options);
  const [before] = readdirSync(`${folder}/weights`);
  rmSync(`${changing}/model.safetensors`);
  await initModel(largeConfig, changing, { seed: 1 });
  mkdirSync(`${folder}/weights/${"a".repeat(40)}.part`);
  mkdirSync(`${folder}/weights/mine`);
  await twoSteps(changing, options);
  const names = readdirSync(`${folder}/weights`);
  assert.equal(names.length, 2);
  assert.ok(names.includes("mine") && !names.includes(before!));
  await clearCache(cacheIn(folder), await cacheEntries(cacheIn(folder)));
  assert.deepEqual(readdirSync(`${folder}/weights`), ["mine"]);
});

test("without a cache converted weights do not stream, and runs in memory go without it", async () => {
  const streamed = { baseDtype: "int8", memory: "stream" } as const;
  await refused(() => twoSteps(base, { ...streamed, cache: cacheIn("off") }), "cache/off");
  await twoSteps(base, { ...streamed, baseDtype: "bfloat16", cache: cacheIn("off") });
});

test("a disk that is full: a streamed run is refused, others go without the cache", async (t) => {
  const cache = cacheIn(temporaryFolder(t), { freeDisk: async () => 1e6 });
  const form = { baseDtype: "int8", integers: true } as const;
  await refused(() => twoSteps(base, { ...form, memory: "stream", cache }), "cache/disk");
  await twoSteps(base, { ...form, memory: "recompute", cache });
  assert.deepEqual(await cacheEntries(cache), []);
});

const child = compiled("test/helpers/streaming-child.ts");

function runChild(t: TestContext, folder: string): Promise<string> {
  const process = spawn(globalThis.process.execPath, [child, base, folder]);
  t.after(() => process.kill());
  let text = "";
  for (const stream of [process.stdout, process.stderr]) stream.on("data", (part) => (text += part));
  return new Promise((resolve, reject) => {
    process.once("error", reject);
    process.once("close", (status) => (status === 0 ? resolve(text) : reject(new Error(text))));
  });
}

test("two processes and two sessions of one make an entry at once: one is made, all compute the same", async (t) => {
  const folder = temporaryFolder(t);
  const options: StepOptions = { baseDtype: "int8", memory: "stream", cache: cacheIn(folder) };
  const children = [runChild(t, folder), runChild(t, folder)];
  const own = await Promise.all([twoSteps(base, options), twoSteps(base, options)]);
  assert.deepEqual(own[0], own[1]);
  for (const text of await Promise.all(children)) assert.equal(text.trim(), JSON.stringify(own[0]!.losses));
  assert.equal(entryOf(folder).folder.length > 0, true);
  assert.deepEqual(
    readdirSync(`${folder}/weights`).filter((name) => name.includes(".")),
    [],
  );
});
