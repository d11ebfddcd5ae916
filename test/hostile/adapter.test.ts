// Adapter folders that are damaged, incomplete, made for something else, or made to harm: each is refused with its reason.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_ADAPTER_MODULES, MAX_ADAPTER_RANK, readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import type { LowrankError } from "../../src/errors.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { fromFloat32 } from "../../src/formats/float.ts";
import { type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { refused } from "../helpers/assert.ts";
import { fixtureAdapter } from "../helpers/lora-fixture.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const config = { peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: ["q"] };
const A = "base_model.model.x.q.lora_A.weight";
const B = "base_model.model.x.q.lora_B.weight";

type Row = [name: string, shape: number[], values?: number[], dtype?: TensorSource["dtype"]];
const good: Row[] = [
  [A, [2, 3]],
  [B, [4, 2]],
];

async function folder(rows: Row[], fields: object = config) {
  const files = memoryFiles({ "f/adapter_config.json": JSON.stringify(fields) });
  const sources = rows.map(([name, shape, values, dtype = "float32"]): TensorSource => {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5);
    data.set(values ?? []);
    const stored = dtype === "int32" ? Int32Array.from(data) : fromFloat32(data, dtype as "float32");
    return { name, dtype, shape, data: () => bytesOf(stored) };
  });
  await writeSafetensors(files, "f/adapter_model.safetensors", sources, { format: "pt" });
  return files;
}

async function refusal(files: ReturnType<typeof memoryFiles>): Promise<LowrankError> {
  const error = await refused(readAdapter(files, "f"), undefined, { subject: /./ });
  assert.ok(error.describe().length < 4000);
  return error;
}

test("the folder these tests damage is whole", async () => {
  for (const dtype of ["float32", "float16", "bfloat16"] as const) {
    const adapter = await readAdapter(await folder(good.map(([name, shape]) => [name, shape, [], dtype])), "f");
    assert.deepEqual(adapter.modules, [{ path: "x.q", rank: 2, alpha: 4, scale: 2, inFeatures: 3, outFeatures: 4 }]);
    assert.deepEqual(adapter.tensors.get("x.q")!.loraA, new Float32Array(6).fill(0.5));
  }
});

const a: Row = [A, [2, 3]];
const b: Row = [B, [4, 2]];
const long: Row[] = good.map(([name, shape]) => [name.replace("x.q", "a".repeat(500)), shape]);
const damaged: [what: string, code: string, rows: Row[], fields?: object][] = [
  ["no tensors", "adapter/empty", []],
  ["A alone", "adapter/missing-factor", [a]],
  ["B alone", "adapter/missing-factor", [b]],
  ["inner dimensions differ", "adapter/shape", [a, [B, [4, 3]]]],
  ["three dimensions", "adapter/shape", [[A, [2, 3, 1]], b]],
  ["one dimension", "adapter/shape", [[A, [2]], b]],
  ["no elements", "adapter/shape", [[A, [2, 0]], b]],
  ["another rank than r", "adapter/rank", [a, b], { ...config, r: 3 }],
  ["another rank than rank_pattern", "adapter/rank", [a, b], { ...config, rank_pattern: { q: 1 } }],
  ["integers", "adapter/dtype", [[A, [2, 3], [], "int32"], b]],
  ["float64", "adapter/dtype", [[A, [2, 3], [], "float64"], b]],
  ["NaN in A", "adapter/not-finite", [[A, [2, 3], [1, Number.NaN]], b]],
  ["infinity in B", "adapter/not-finite", [a, [B, [4, 2], [1, 2, -Infinity]]]],
  ["NaN in bfloat16", "adapter/not-finite", [[A, [2, 3], [Number.NaN], "bfloat16"], b]],
  ["infinity in float16", "adapter/not-finite", [[A, [2, 3], [1e6], "float16"], b]],
  ["a module that is no target", "adapter/not-targeted", [a, b], { ...config, target_modules: ["v"] }],
  ["an excluded module", "adapter/not-targeted", [a, b], { ...config, exclude_modules: ["x.q"] }],
  ["keys without PEFT's prefix", "adapter/unknown-keys", [["x.q.lora_A.weight", [2, 3]], b]],
  ["keys with an adapter's name", "adapter/unknown-keys", [["base_model.model.x.q.lora_A.default.weight", [2, 3]], b]],
  ["half of an embedding's", "adapter/missing-factor", [a, b, ["base_model.model.e.lora_embedding_A", [2, 9]]]],
  ["factors of a layer and of an embedding", "adapter/missing-factor", [a, b, ["base_model.model.x.q.lora_embedding_A", [2, 9]]]],
  ["DoRA's magnitudes", "adapter/unknown-keys", [a, b, ["base_model.model.x.q.lora_magnitude_vector", [4]]]],
  ["a bias of B", "adapter/unknown-keys", [a, b, ["base_model.model.x.q.lora_B.bias", [4]]]],
  ["a base weight", "adapter/unknown-keys", [a, b, ["base_model.model.lm_head.base_layer.weight", [4, 3]]]],
  ["a fully trained module", "adapter/unknown-keys", [a, b, ["base_model.model.lm_head.weight", [4, 3]]]],
  ["no module path", "adapter/unknown-keys", [["base_model.model..lora_A.weight", [2, 3]]]],
  ["an endless module path", "adapter/unknown-keys", [[`base_model.model.${"a.".repeat(100_000)}q.lora_A.weight`, [2, 3]]]],
  ["a regex that would hang", "lora/regex", long, { ...config, target_modules: "((a+)+)+b" }],
  ["a regex with a back-reference", "lora/regex", [a, b], { ...config, target_modules: "(x).q\\1" }],
  ["a malformed rank pattern", "lora/regex", [a, b], { ...config, rank_pattern: { "(": 2 } }],
  ["another method than LoRA", "lora/unsupported", [a, b], { ...config, peft_type: "IA3" }],
  ["DoRA without magnitudes", "adapter/missing-factor", [a, b], { ...config, use_dora: true }],
  [
    "magnitudes of another size",
    "adapter/shape",
    [a, b, ["base_model.model.x.q.lora_magnitude_vector", [3]]],
    { ...config, use_dora: true },
  ],
  ["a bias of B that the file lacks", "adapter/missing-factor", [a, b], { ...config, lora_bias: true }],
  ["an unknown option", "lora/unsupported", [a, b], { ...config, use_future: true }],
  ["an array for a config", "lora/config", [a, b], []],
];

for (const [what, code, rows, fields] of damaged) {
  test(`refused: ${what}`, async () => {
    assert.equal((await refusal(await folder(rows, fields))).code, code);
  });
}

test("refusals name what a key is, and at most five keys", async () => {
  const many = Array.from({ length: 500 }, (_, i): Row => [`base_model.model.x.${i}.lora_magnitude_vector`, [1]]);
  const error = await refusal(await folder([a, b, ...many]));
  assert.match(error.message, /500 of 502 keys/);
  assert.match(error.message, /DoRA/);
  assert.equal(error.got!.split(", ").length, 6);
});

test("refused: pickled weights, with the way to convert them", async () => {
  const files = memoryFiles({ "f/adapter_config.json": JSON.stringify(config), "f/adapter_model.bin": "PK" });
  const error = await refusal(files);
  assert.equal(error.code, "adapter/no-weights");
  assert.match(error.next!, /safe_serialization=True/);
  assert.ok(!files.reads.some(({ path }) => path.endsWith(".bin")));
});

test("refused: a folder without weights, and one without a config", async () => {
  assert.equal((await refusal(memoryFiles({ "f/adapter_config.json": JSON.stringify(config) }))).code, "adapter/no-weights");
  const files = await folder(good);
  files.contents.delete("f/adapter_config.json");
  assert.equal((await refusal(files)).code, "adapter/no-config");
});

test("a shape is refused before any of the payload is read", async () => {
  const files = await folder([a, [B, [4, 3]]]);
  files.reads.length = 0;
  await refusal(files);
  const header = 8 + new DataView(files.contents.get("f/adapter_model.safetensors")!.buffer).getUint32(0, true);
  const weightReads = files.reads.filter(({ path }) => path.endsWith(".safetensors"));
  assert.ok(weightReads.length > 0 && weightReads.every(({ offset, length }) => offset + length <= header));
});

test("an adapter that is larger than the limits allow is refused before any of its payload is read", async () => {
  const files = await folder([a, b]);
  await readAdapter(files, "f", { maxRank: 2, maxModules: 1 });
  await refused(readAdapter(files, "f", { maxRank: 1 }), "adapter/limit", { subject: /x\.q/, expected: "at most 1", got: "2" });
  const two = await folder([a, b, [A.replace("x.q", "y.q"), [2, 3]], [B.replace("x.q", "y.q"), [4, 2]]]);
  two.reads.length = 0;
  await refused(readAdapter(two, "f", { maxModules: 1 }), "adapter/limit", { got: "2" });
  assert.ok(two.reads.every(({ offset }) => offset <= 8));
  const wide = await folder(
    [
      [A, [1, 2 ** 24 + 1]],
      [B, [1, 1]],
    ],
    { ...config, r: 1 },
  );
  await refused(readAdapter(wide, "f"), "adapter/limit", { got: String(2 ** 24 + 1) });
  assert.ok(MAX_ADAPTER_RANK <= 8192 && MAX_ADAPTER_MODULES <= 65_536);
});

test("a frozen weight is as large as its layer, or refused before it is read", async () => {
  const frozen = "base_model.model.x.q.base_layer.weight";
  await readAdapter(await folder([a, b, [frozen, [4, 3]]]), "f");
  const files = await folder([a, b, [frozen, [4, 3000]]]);
  files.reads.length = 0;
  assert.equal((await refusal(files)).code, "adapter/shape");
  assert.ok(files.reads.every(({ offset }) => offset <= 8));
});

test("thousands of modules are read a few megabytes at a time", async () => {
  const rows = Array.from({ length: 1500 }, (_, i) => [a, b].map(([name, shape]): Row => [name.replace("x", `x.${i}`), shape]));
  const files = await folder(rows.flat());
  files.reads.length = 0;
  assert.equal((await readAdapter(files, "f")).tensors.size, 1500);
  assert.ok(files.reads.length < 10, `${files.reads.length} reads`);
});

test("an adapter that diverged or lacks a factor is not written", async () => {
  const adapter = fixtureAdapter();
  const [first] = adapter.tensors.values();
  first!.loraB[3] = Number.NaN;
  const files = memoryFiles();
  await assert.rejects(writeAdapter(files, "f", adapter), { code: "adapter/not-finite" });
  first!.loraB = first!.loraB.slice(1);
  await assert.rejects(writeAdapter(files, "f", adapter), { code: "adapter/shape" });
  adapter.tensors.delete(adapter.modules[0]!.path);
  await assert.rejects(writeAdapter(files, "f", adapter), { code: "adapter/shape" });
  assert.equal(files.contents.size, 0);
});
