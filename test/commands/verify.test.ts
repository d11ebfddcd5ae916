// lowrank verify: every file of a folder is all right, damaged, missing or not listed; by checksums, blob names or structure.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { loadAdapter, mergeAdapter, saveAdapter, type VerifyEvent, verify } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { train } from "../../src/train/trainer.ts";
import { collect, only } from "../helpers/assert.ts";
import { printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { toyRun } from "../helpers/toy.ts";

const root = temporaryFolder();
let folders = 0;
const fresh = (): string => path.join(root, `folder-${folders++}`);

const run = fresh();
await collect(train(toyRun({ folder: run, digest, checkpointEvery: 3 })));
writeFileSync(`${run}/run.json`, "{}");
writeFileSync(`${run}/report.html`, "");

/** A copy of a folder, changed. */
function copyOf(folder: string, change: (copy: string) => void): string {
  const copy = fresh();
  cpSync(folder, copy, { recursive: true, verbatimSymlinks: true });
  change(copy);
  return copy;
}

function flip(file: string): void {
  const bytes = readFileSync(file);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(file, bytes);
}

/** The files that are not simply all right, by their names, and how many files there are of each state. */
async function verified(folder: string) {
  const events = await collect<VerifyEvent>(verify(folder));
  const last = events.at(-1)!;
  assert.ok(last.type === "done");
  const progress = only(events, "verifying");
  assert.deepEqual(
    progress.map(({ done }) => done),
    progress.map(({ done }) => done).sort((a, b) => a - b),
  );
  assert.ok(progress.every(({ done, bytes }) => done <= bytes && bytes === last.bytes));
  const others = only(events, "file").filter(({ state }) => state !== "ok");
  return { ...last, others: Object.fromEntries(others.map(({ file, state }) => [file, state])), events };
}

test("a run is verified with its checkpoints and its result", async () => {
  const { kind, ok, damaged, missing, unlisted, others } = await verified(run);
  assert.deepEqual([kind, ok, damaged, missing, unlisted, others], ["run", 1 + 3 * 2, 0, 0, 0, {}]);
  const copy = copyOf(run, (folder) => {
    flip(`${folder}/checkpoint-6/optimizer.safetensors`);
    rmSync(`${folder}/checkpoint-4/trainer_state.json`);
    flip(`${folder}/adapter_model.safetensors`);
    writeFileSync(`${folder}/notes.txt`, "");
  });
  assert.deepEqual((await verified(copy)).others, {
    "adapter_model.safetensors": "damaged",
    "checkpoint-4/trainer_state.json": "missing",
    "checkpoint-6/optimizer.safetensors": "damaged",
    "notes.txt": "unlisted",
  });
});

test("a checkpoint alone, one without checksums, and one whose checksums are damaged", async () => {
  const checkpoint = `${run}/checkpoint-6`;
  assert.deepEqual((await verified(checkpoint)).kind, "checkpoint");
  const without = copyOf(checkpoint, (folder) => {
    for (const name of ["SHA256SUMS", "adapter_model.safetensors"]) rmSync(`${folder}/${name}`);
    truncateSync(`${folder}/optimizer.safetensors`, 500);
  });
  assert.deepEqual((await verified(without)).others, {
    "adapter_model.safetensors": "missing",
    "optimizer.safetensors": "damaged",
  });
  const spoilt = copyOf(checkpoint, (folder) => truncateSync(`${folder}/SHA256SUMS`, 100));
  assert.deepEqual((await verified(spoilt)).others, { SHA256SUMS: "damaged" });
});

test(
  "a merged model, in a new folder or in an empty one, and an adapter that is saved have checksums of all their files",
  slow,
  async () => {
    const golden = `${fixtures}/cases/lora-rslora`;
    const [merged, inside, saved] = [fresh(), fresh(), fresh()];
    mkdirSync(inside);
    for (const output of [merged, inside]) await mergeAdapter({ base: `${golden}/base`, adapter: `${golden}/adapter`, output });
    await saveAdapter(saved, await loadAdapter(`${golden}/adapter`));
    for (const folder of [merged, inside, saved]) {
      const { kind, others, events } = await verified(folder);
      assert.deepEqual([kind, others], [folder === saved ? "adapter" : "model", {}]);
      const listed = only(events, "file").map(({ file }) => file);
      assert.deepEqual(["SHA256SUMS", ...listed].sort(), readdirSync(folder).sort());
    }
    flip(`${merged}/model.safetensors`);
    assert.deepEqual((await verified(merged)).others, { "model.safetensors": "damaged" });
  },
);

test("a model without checksums is verified by the structure of its files", async () => {
  const model = `${fixtures}/tiny-llama`;
  const { kind, others, bytes } = await verified(model);
  assert.deepEqual([kind, others], ["model", { "README.md": "unlisted" }]);
  assert.ok(bytes > 100_000);
  const wrong = async (change: (folder: string) => void) => (await verified(copyOf(model, change))).others;
  const readme = { "README.md": "unlisted" };
  assert.deepEqual(await wrong((folder) => truncateSync(`${folder}/model.safetensors`, 9000)), {
    ...readme,
    "model.safetensors": "damaged",
  });
  assert.deepEqual(await wrong((folder) => appendFileSync(`${folder}/tokenizer.json`, "}")), {
    ...readme,
    "tokenizer.json": "damaged",
  });
  const index = { weight_map: { "model.norm.weight": "model-00001-of-00002.safetensors" } };
  const named = await wrong((folder) => {
    rmSync(`${folder}/model.safetensors`);
    writeFileSync(`${folder}/model.safetensors.index.json`, JSON.stringify(index));
  });
  assert.deepEqual(named, { ...readme, "model.safetensors.index.json": "damaged" });
});

for (const [dtype, data] of [
  ["float32", Float32Array.of(1, Number.NaN)],
  ["float64", Float64Array.of(1, Number.NEGATIVE_INFINITY)],
  ["float16", Uint16Array.of(0x3c00, 0x7c00)],
  ["bfloat16", Uint16Array.of(0x3f80, 0xffc0)],
] as const) {
  test(`a value that is not finite is found in ${dtype}, and one that is extreme is none`, async () => {
    const folder = fresh();
    mkdirSync(folder);
    const write = (values: typeof data) =>
      writeSafetensors(nodeFiles, `${folder}/x.safetensors`, [{ name: "w", dtype, shape: [2], data: () => bytesOf(values) }]);
    await write(data);
    const { events, others } = await verified(folder);
    assert.deepEqual(others, { "x.safetensors": "damaged" });
    assert.match(JSON.stringify(events), /a value of w is not finite/);
    const largest = { float32: 3.4028234663852886e38, float64: Number.MAX_VALUE, float16: 0x7bff, bfloat16: 0x7f7f };
    data[1] = largest[dtype];
    await write(data);
    assert.deepEqual((await verified(folder)).others, {});
  });
}

test("a model may have infinities in what it does not read, such as masks, and not in its weights", async () => {
  const model = `${fixtures}/tiny-llama`;
  const checkpoint = await openCheckpoint(nodeFiles, model);
  const [name] = checkpoint.tensors.keys();
  const written = async (mask: number, weight?: number) => {
    const copy = copyOf(model, () => {});
    const tensors = [...checkpoint.tensors.keys()].map(async (stored) => {
      const { dtype, shape, data } = await readWeights(nodeFiles, checkpoint, stored);
      if (stored === name && weight !== undefined) data[0] = weight;
      return { name: stored, dtype, shape, data: () => bytesOf(data) };
    });
    const added = { name: "mask", dtype: "float32" as const, shape: [1], data: () => bytesOf(Float32Array.of(mask)) };
    await writeSafetensors(nodeFiles, `${copy}/model.safetensors`, [...(await Promise.all(tensors)), added]);
    return (await verified(copy)).others;
  };
  assert.deepEqual(await written(Number.NEGATIVE_INFINITY), { "README.md": "unlisted" });
  assert.deepEqual(await written(0, 0x7fff), { "README.md": "unlisted", "model.safetensors": "damaged" });
});

test("the hub's cache is verified by the names of its blobs", async () => {
  const cache = fresh();
  const model = `${cache}/models--me--tiny`;
  const snapshot = `${model}/snapshots/${"a".repeat(40)}`;
  for (const folder of [`${model}/blobs`, `${snapshot}/inner`]) mkdirSync(folder, { recursive: true });
  const large = createHash("sha256").update("weights").digest("hex");
  const small = createHash("sha1").update("blob 2\0{}").digest("hex");
  for (const [name, content] of [
    [large, "weights"],
    [small, "{}"],
    ["an-etag", "x"],
    [`${"b".repeat(64)}.incomplete`, "half"],
  ]) {
    writeFileSync(`${model}/blobs/${name}`, content!);
  }
  symlinkSync(`../../blobs/${small}`, `${snapshot}/config.json`);
  symlinkSync(`../../../blobs/${large}`, `${snapshot}/inner/model.safetensors`);
  const unknown = { "blobs/an-etag": "unlisted", [`blobs/${"b".repeat(64)}.incomplete`]: "unlisted" };
  const whole = await verified(model);
  assert.deepEqual([whole.kind, whole.ok, whole.others], ["hub model", 2, unknown]);
  assert.deepEqual([(await verified(cache)).kind, (await verified(cache)).ok], ["hub cache", 2]);
  assert.deepEqual((await verified(snapshot)).others, {}, "the files of a snapshot are blobs");
  const broken = copyOf(cache, (folder) => {
    const blobs = `${folder}/models--me--tiny/blobs`;
    writeFileSync(`${blobs}/${small}`, "[]");
    rmSync(`${blobs}/${large}`);
  });
  const { others, damaged, missing } = await verified(broken);
  assert.deepEqual([damaged, missing], [1, 1]);
  assert.equal(others[`models--me--tiny/blobs/${small}`], "damaged");
  assert.equal(others[`models--me--tiny/snapshots/${"a".repeat(40)}/inner/model.safetensors`], "missing");
});

test("the command says what is wrong, and ends with 1 if anything is", async () => {
  const good = await printed("verify", run);
  assert.deepEqual([good.status, good.stdout], [0, `run, ${good.stdout.match(/[\d.]+ kB/)} read: 7 ok\n`]);
  const copy = copyOf(run, (folder) => {
    flip(`${folder}/checkpoint-6/optimizer.safetensors`);
    writeFileSync(`${folder}/\u001b[31m.txt`, "");
  });
  const bad = await printed("verify", copy);
  assert.equal(bad.status, 1);
  assert.match(bad.stdout, /^damaged: checkpoint-6\/optimizer\.safetensors \(expected [0-9a-f]{64}, found [0-9a-f]{64}\)$/m);
  assert.match(bad.stdout, /6 ok, 1 damaged, 1 not listed\nnot listed, so that nothing says what it should be: .*\.txt$/m);
  assert.ok(!bad.stdout.includes("\u001b"));
  const json = await printed("verify", "--json", copy);
  assert.equal(json.status, 1);
  const last = JSON.parse(json.stdout.trim().split("\n").at(-1)!);
  assert.deepEqual([last.type, last.ok, last.damaged], ["done", 6, 1]);
  const empty = fresh();
  mkdirSync(empty);
  const nothing = await printed("verify", empty);
  assert.equal(nothing.status, 2);
  assert.match(nothing.stderr, /nothing that can be verified/);
});
