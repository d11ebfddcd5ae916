// Decoding with a cache against the logits that Transformers and PEFT computed in one pass (test/fixtures/cases).
// slow
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { adapt } from "../../src/adapters/inject.ts";
import { lora } from "../../src/adapters/methods/lora.ts";
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import { type ModelDecoder, openDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import { input } from "../../src/graph/ops/leaves.ts";
import { whole } from "../../src/graph/stages.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import type { LlamaConfig } from "../../src/models/config/llama-config.ts";
import { forwardGraph, modelConfig, visionOf } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { float32, int32 } from "../../src/tensor.ts";
import { greatestDifference } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

const TOLERANCE = 3e-5;

interface Case {
  base: Base;
  adapter: Adapter;
  /** The rows without their padding. */
  rows: Int32Array[];
  /** What PEFT computed for a token of a row: [vocab]. */
  golden: Record<"base" | "adapter", (row: number, position: number) => Float32Array>;
}

async function readCase(name: string): Promise<Case> {
  const folder = `${fixtures}/cases/${name}`;
  const io = await readHeader(nodeFiles, `${folder}/io.safetensors`);
  const read = async (key: string) => readTensor(nodeFiles, `${folder}/io.safetensors`, io.tensors.get(key)!);
  const [ids, mask] = [await read("input_ids"), await read("attention_mask")];
  const [batch, width] = ids.shape as [number, number];
  /** Where the tokens of each row lie, on whichever side its padding is. */
  const places = Array.from({ length: batch }, (_, row) =>
    Array.from({ length: width }, (_, i) => row * width + i).filter((at) => Number(mask.data[at]) === 1),
  );
  const golden = async (key: string) => {
    const { data, shape } = await read(key);
    const vocab = shape[2]!;
    return (row: number, position: number) =>
      (data as Float32Array).subarray(places[row]![position]! * vocab, (places[row]![position]! + 1) * vocab);
  };
  return {
    base: await loadBase(nodeFiles, `${folder}/base`),
    adapter: await readAdapter(nodeFiles, `${folder}/adapter`),
    rows: places.map((row) => Int32Array.from(row, (at) => Number(ids.data[at]))),
    golden: { base: await golden("logits_base"), adapter: await golden("logits_adapter") },
  };
}

const open = (base: Base, openSession: OpenSession = openNodeSession) => openDecoder({ ...base, openSession, threads: 1 });

/**
 * Feeds all but the last `steps` tokens of each row as prompts, then the others one by one, and hands every row's logits
 * to `see` with the position they belong to.
 */
async function decode(
  decoder: ModelDecoder,
  rows: readonly Int32Array[],
  steps: number,
  see: (row: number, position: number, logits: Float32Array) => void,
): Promise<void> {
  const vocab = decoder.vocabSize;
  const ends = rows.map((row) => row.length - steps);
  const seeAll = (logits: Float32Array) => {
    assert.equal(logits.length, rows.length * vocab);
    for (const [row, end] of ends.entries()) see(row, end - 1, logits.subarray(row * vocab, (row + 1) * vocab));
  };
  seeAll(
    await decoder.start(
      leftPad(
        rows.map((row, i) => row.subarray(0, ends[i])),
        0,
      ),
    ),
  );
  for (let step = 0; step < steps; step++) {
    const tokens = Int32Array.from(rows, (row, i) => row[ends[i]!]!);
    const logits = await decoder.step(tokens, Int32Array.from(ends));
    ends.forEach((_, i) => void ends[i]!++);
    seeAll(logits);
  }
  await decoder.end();
}

/** Decodes `rows` and compares each position's logits with `want`. */
async function agrees(decoder: ModelDecoder, rows: readonly Int32Array[], steps: number, want: Case["golden"]["base"]) {
  let seen = 0;
  await decode(decoder, rows, steps, (row, position, logits) => {
    seen++;
    const worst = greatestDifference(logits, want(row, position));
    assert.ok(worst <= TOLERANCE, `row ${row}, position ${position}: ${worst}`);
  });
  assert.equal(seen, rows.length * (steps + 1));
}

/** The logits of every position of one row without a cache, the adapter injected with fixed ranks and its scale apart. */
async function forward(
  { checkpoint, config }: Base,
  adapter: Adapter | null,
  ids: Int32Array,
): Promise<(position: number) => Float32Array> {
  const modules = adapter?.modules ?? [];
  const factors = modules.map(({ path, rank, inFeatures, outFeatures, scale }) => {
    const loraA = input(`A ${path}`, "float32", [rank, inFeatures]);
    return [path, { tensors: { loraA, loraB: input(`B ${path}`, "float32", [outFeatures, rank]) }, scale }] as const;
  });
  const files = weightFiles(checkpoint);
  const graph = adapt(forwardGraph(config), lora, new Map(factors));
  const session = await openNodeSession(whole(graph), { weights: files, threads: 1 });
  const shape = [1, ids.length];
  const { logits } = await session.run({
    inputIds: int32(shape, ids),
    positionIds: int32(shape, ids.keys()),
    attentionMask: int32(
      shape,
      ids.map(() => 1),
    ),
    segmentIds: int32(
      shape,
      ids.map(() => 0),
    ),
    ...Object.fromEntries(
      modules.flatMap(({ path, rank, inFeatures, outFeatures }) => {
        const { loraA, loraB } = adapter!.tensors.get(path)!;
        return [
          [`A ${path}`, float32([rank, inFeatures], loraA)],
          [`B ${path}`, float32([outFeatures, rank], loraB)],
        ];
      }),
    ),
  });
  await session.close();
  const vocab = config.vocabSize;
  return (position) => (logits!.data as Float32Array).subarray(position * vocab, (position + 1) * vocab);
}

const cases = `${fixtures}/cases`;
/**
 * The language models among the cases that read no images. Those of LoRA's options are all one model; what an aLoRA adapts depends on where
 * the prompt ends (test/adapters/activated.test.ts).
 */
const decoders = readdirSync(cases).filter((name) => {
  if (name.startsWith("lora-") || name === "llama-alora") return false;
  const config = modelConfig(JSON.parse(readFileSync(`${cases}/${name}/base/config.json`, "utf8")));
  return config.head === "lm" && !visionOf(config);
});

for (const name of decoders) {
  test(`${name}: cached decoding of a left-padded batch gives the full pass's logits, with and without adapter`, async () => {
    const { base, adapter, rows, golden } = await readCase(name);
    assert.ok(new Set(rows.map((row) => row.length)).size > 1, "the rows need padding");
    const shortest = Math.min(...rows.map((row) => row.length));
    const window = (base.config as unknown as LlamaConfig).slidingWindow;
    if (window) assert.ok(Math.max(...rows.map((row) => row.length)) > window + 1, "a row outgrows the window");
    const decoder = await open(base);
    await agrees(decoder, rows, shortest - 1, golden.base);
    await decoder.useAdapter(adapter);
    await agrees(decoder, rows, 2, golden.adapter);
    for (const [i, row] of rows.entries()) await agrees(decoder, [row], 3, (_, position) => golden.adapter(i, position));
    await decoder.useAdapter(null);
    await agrees(decoder, rows, 1, golden.base);
    assert.ok(greatestDifference(golden.base(0, 3), golden.adapter(0, 3)) > 100 * TOLERANCE, "the adapter changes the logits");
    await decoder.close();
  });
}

test("adapters of other ranks and targets are swapped in one session", async () => {
  const { base, adapter, rows, golden } = await readCase("llama-gqa-tied");
  const modules = base.modules
    .filter(({ path }) => path === "lm_head" || path.endsWith("layers.1.self_attn.q_proj"))
    .map(({ path, inFeatures, outFeatures }) => ({ path, inFeatures, outFeatures, rank: 3, alpha: 5, scale: 5 / 3 }));
  assert.equal(modules.length, 2);
  assert.ok(adapter.modules.every(({ rank }) => rank !== 3));
  const config = loraConfig({ rank: 3, alpha: 5, initLoraWeights: false });
  const other: Adapter = { config, modules, tensors: initAdapter(modules, config, 7) };
  const row = rows[0]!;
  const [plain, adapted] = [await forward(base, null, row), await forward(base, other, row)];
  assert.ok(greatestDifference(plain(5), adapted(5)) > 100 * TOLERANCE, "the adapter changes the logits");

  let opened = 0;
  const decoder = await open(base, (...session) => {
    opened++;
    return openNodeSession(...session);
  });
  await decoder.useAdapter(adapter);
  await agrees(decoder, [row], 4, golden.adapter);
  await decoder.useAdapter(other);
  await agrees(decoder, [row], 4, (_, position) => adapted(position));
  await decoder.useAdapter(adapter);
  await agrees(decoder, [row], 4, golden.adapter);
  await decoder.useAdapter(null);
  await agrees(decoder, [row], 4, golden.base);
  assert.equal(opened, 1, "with room for an adapter from the start");
  await decoder.close();
});

test("an adapter that does not fit the base is refused, and the one before stays", async () => {
  const { base, adapter, rows, golden } = await readCase("llama-gqa-tied");
  const stranger = (await readCase("lora-rslora")).adapter;
  const decoder = await open(base);
  await decoder.useAdapter(adapter);
  const [first, ...others] = adapter.modules;
  const elsewhere: Adapter = { ...adapter, modules: [{ ...first!, path: "model.layers.7.self_attn.q_proj" }, ...others] };
  await assert.rejects(decoder.useAdapter(elsewhere), { code: "adapter/no-module" });
  const wider: Adapter = { ...stranger, modules: stranger.modules.map((m) => ({ ...m, inFeatures: m.inFeatures + 1 })) };
  await assert.rejects(decoder.useAdapter(wider), { code: "adapter/other-base" });
  await agrees(decoder, rows, 1, golden.adapter);
  await decoder.close();
});

test("a prompt longer than is run at once gives the full pass's logits", async () => {
  const { base } = await readCase("mistral-swa");
  const long = Int32Array.from({ length: 1100 }, (_, i) => 3 + ((i * i) % 100));
  const short = long.subarray(0, 500);
  const wants = [await forward(base, null, long), await forward(base, null, short)];
  const decoder = await open(base);
  await agrees(decoder, [long, short], 2, (row, position) => wants[row]!(position));
  await decoder.close();
});
