// Adapter folders: ours as PEFT loaded it (test/fixtures/lora/peft-loaded.json), PEFT's as we read it; initial values, norms, merge targets.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fitAdapter, mergeTargets } from "../../src/adapters/attach.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { describeAdapter } from "../../src/adapters/describe.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import type { AdapterModule } from "../../src/adapters/match.ts";
import { type Adapter, readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import type { LowrankError } from "../../src/errors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { near } from "../helpers/assert.ts";
import { fixtureAdapter, fixtureModules } from "../helpers/lora-fixture.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";

const written = path.join(fixtures, "lora/written");
const loaded: {
  modules: (AdapterModule & { normDelta: number })[];
  sums: Record<string, [number, number]>;
  logits_change: number;
  logits_from_factors_off_by: number;
} = JSON.parse(readFileSync(path.join(fixtures, "lora/peft-loaded.json"), "utf8"));

test("the same seed writes the adapter that PEFT loaded, byte for byte", async () => {
  const files = memoryFiles();
  await writeAdapter(files, "out", fixtureAdapter());
  for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
    assert.deepEqual(Buffer.from(files.contents.get(`out/${name}`)!), readFileSync(path.join(written, name)), name);
  }
  assert.equal(files.contents.size, 2);
});

test("PEFT holds the factors, ranks and scales that were written, and they change its logits", async () => {
  const adapter = await readAdapter(nodeFiles, written);
  const byPath = new Map(adapter.modules.map((module) => [module.path, module]));
  const described = new Map(describeAdapter(adapter).modules.map((module) => [module.path, module]));
  assert.equal(loaded.modules.length, 12);
  assert.equal(adapter.modules.length, loaded.modules.length);
  for (const { normDelta, ...module } of loaded.modules) {
    const { scale, ...ours } = byPath.get(module.path)!;
    const { scale: peftScale, ...peft } = module;
    assert.deepEqual(ours, peft);
    near(scale, peftScale, { rtol: 1e-12 });
    near(described.get(module.path)!.normDelta, normDelta, { rtol: 1e-5 });
    const { loraA, loraB } = adapter.tensors.get(module.path)!;
    for (const [key, values] of [
      [`base_model.model.${module.path}.lora_A.weight`, loraA],
      [`base_model.model.${module.path}.lora_B.weight`, loraB],
    ] as const) {
      const [sum, squares] = loaded.sums[key]!;
      near(
        values.reduce((total, value) => total + value, 0),
        sum,
        { rtol: 1e-9 },
      );
      near(
        values.reduce((total, value) => total + value * value, 0),
        squares,
        { rtol: 1e-9 },
      );
    }
  }
  assert.ok(loaded.logits_change > 1 && loaded.logits_from_factors_off_by < 1e-4);
  const { config } = fixtureAdapter();
  const targetModules = [...config.targetModules!].sort();
  assert.deepEqual({ ...adapter.config, inferenceMode: false }, { ...config, targetModules });
  assert.equal(adapter.baseFingerprint, "0123456789abcdef");
});

test("an adapter that PEFT wrote is read, and written again byte for byte", async () => {
  for (const name of ["lora-rslora", "llama-bf16-sharded"]) {
    const folder = path.join(fixtures, "cases", name, "adapter");
    const adapter = await readAdapter(nodeFiles, folder);
    const files = memoryFiles();
    await writeAdapter(files, "out", adapter);
    const bytes = readFileSync(path.join(folder, "adapter_model.safetensors"));
    assert.deepEqual(Buffer.from(files.contents.get("out/adapter_model.safetensors")!), bytes, name);
    const text = readFileSync(path.join(folder, "adapter_config.json"), "utf8").trimEnd();
    assert.equal(new TextDecoder().decode(files.contents.get("out/adapter_config.json")), text, name);
    assert.ok(describeAdapter(adapter).normDelta > 1);
    assert.equal(adapter.baseFingerprint, undefined);
  }
});

const one = (rank: number): AdapterModule[] => [{ path: "a.q", rank, alpha: 1, scale: 1, inFeatures: 400, outFeatures: 300 }];
const largest = (values: Float32Array) => values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
const deviation = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);

test("initial values have PEFT's distributions", () => {
  const make = (initLoraWeights: boolean | "gaussian") => initAdapter(one(50), { initLoraWeights }, 3).get("a.q")!;
  const standard = make(true);
  assert.ok(largest(standard.loraA) <= 1 / 20 && largest(standard.loraA) > 0.999 / 20);
  near(deviation(standard.loraA), 1 / 20 / Math.sqrt(3), 5e-4);
  assert.ok(Math.abs(standard.loraA.reduce((sum, value) => sum + value, 0)) / standard.loraA.length < 1e-3);
  assert.equal(largest(standard.loraB), 0);
  const gaussian = make("gaussian");
  near(deviation(gaussian.loraA), 1 / 50, 5e-4);
  assert.ok(largest(gaussian.loraA) > 3 / 50);
  assert.equal(largest(gaussian.loraB), 0);
  const random = make(false);
  assert.deepEqual(random.loraA, standard.loraA);
  const bound = 1 / Math.sqrt(50);
  assert.ok(largest(random.loraB) <= bound && largest(random.loraB) > 0.999 * bound);
});

test("initial values differ between modules and seeds, and repeat for the same seed", () => {
  const { modules } = fixtureAdapter();
  const first = initAdapter(modules, { initLoraWeights: true }, 1);
  assert.deepEqual(initAdapter(modules, { initLoraWeights: true }, 1), first);
  const firsts = [...first.values(), ...initAdapter(modules, { initLoraWeights: true }, 2).values()].map(({ loraA }) => loraA[0]);
  assert.equal(new Set(firsts).size, 2 * modules.length);
});

test("norms from Gram matrices are those of the update itself", () => {
  const adapter = fixtureAdapter();
  const description = describeAdapter(adapter);
  for (const { path: modulePath, rank, scale, inFeatures, outFeatures, normDelta, normA, normB } of description.modules) {
    const { loraA, loraB } = adapter.tensors.get(modulePath)!;
    let squares = 0;
    for (let i = 0; i < outFeatures; i++) {
      for (let j = 0; j < inFeatures; j++) {
        let delta = 0;
        for (let k = 0; k < rank; k++) delta += loraB[i * rank + k]! * loraA[k * inFeatures + j]!;
        squares += (scale * delta) ** 2;
      }
    }
    near(normDelta, Math.sqrt(squares), { rtol: 1e-10 });
    near(normA, deviation(loraA) * Math.sqrt(loraA.length), { rtol: 1e-10 });
    near(normB, deviation(loraB) * Math.sqrt(loraB.length), { rtol: 1e-10 });
  }
  near(
    description.normDelta ** 2,
    description.modules.reduce((sum, { normDelta }) => sum + normDelta ** 2, 0),
    { rtol: 1e-12 },
  );
  assert.equal(
    description.parameters,
    adapter.modules.reduce((sum, m) => sum + m.rank * (m.inFeatures + m.outFeatures), 0),
  );
  assert.deepEqual(
    [...description.ranks],
    [
      [2, 2],
      [3, 2],
      [4, 6],
      [5, 2],
    ],
  );
});

test("a fresh adapter has an update of norm 0", () => {
  const modules = one(4);
  const adapter: Adapter = { config: loraConfig(), modules, tensors: initAdapter(modules, { initLoraWeights: true }, 1) };
  assert.equal(describeAdapter(adapter).normDelta, 0);
});

test("an adapter for another model is refused with the first module that differs", () => {
  const adapter = fixtureAdapter();
  assert.doesNotThrow(() => fitAdapter(adapter, fixtureModules));
  const renamed = fixtureModules.map((module) => ({ ...module, path: module.path.replace("mlp", "ffn") }));
  assert.throws(
    () => fitAdapter(adapter, renamed),
    (error: LowrankError) => {
      assert.equal(error.code, "adapter/no-module");
      assert.equal(error.subject, "model.layers.0.mlp.up_proj");
      assert.match(error.expected!, /model\.layers\.0\.ffn\.up_proj/);
      return true;
    },
  );
  const wider = fixtureModules.map((module) => (module.path.includes("1.self_attn.k") ? { ...module, outFeatures: 32 } : module));
  assert.throws(() => fitAdapter(adapter, wider), { code: "adapter/other-base", subject: "model.layers.1.self_attn.k_proj" });
  const embedding = fixtureModules.map((module) => ({ ...module, kind: "embedding" as const }));
  assert.throws(() => fitAdapter(adapter, embedding), { code: "adapter/no-module" });
});

test("merge targets carry the factors, the scale, the stored name and the layout", () => {
  const adapter = fixtureAdapter();
  const targets = mergeTargets(adapter, fixtureModules);
  assert.equal(targets.length, adapter.modules.length);
  assert.equal(targets[0]!.weightName, "model.layers.0.self_attn.q_proj.weight");
  assert.equal(targets[0]!.loraA, adapter.tensors.get("model.layers.0.self_attn.q_proj")!.loraA);
  assert.deepEqual([targets[0]!.rank, targets[0]!.scale, targets[0]!.fanInFanOut], [4, 4.5, false]);
  const conv = fixtureModules.map((module) => ({ ...module, kind: "conv1d" as const }));
  const [first] = mergeTargets(adapter, conv, (name) => `stored.${name}`);
  assert.equal(first!.weightName, "stored.model.layers.0.self_attn.q_proj.weight");
  assert.equal(first!.fanInFanOut, true);
});
