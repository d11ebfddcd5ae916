// Adapters beside what is no linear layer: parameters of experts and routers, and convolutions.
// slow
import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { test } from "node:test";
import { caseTask, forwardFeeds } from "../../scripts/oracle/case-task.ts";
import { readTensors } from "../../scripts/oracle/golden.ts";
import { adaptableSession } from "../../src/adapters/adaptable.ts";
import { fitAdapter } from "../../src/adapters/attach.ts";
import { savedInput, withSaved } from "../../src/adapters/beside.ts";
import { combine } from "../../src/adapters/combine.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { describeAdapter } from "../../src/adapters/describe.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { layoutOf } from "../../src/adapters/layout.ts";
import { matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { truncateAdapter } from "../../src/adapters/resize.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { openBase } from "../../src/models/base.ts";
import { forwardGraph } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { float32, type Tensor } from "../../src/tensor.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { stackExperts } from "../helpers/stacked-experts.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const opened = (name: string) => openBase(nodeFiles, `${cases}/${name}/base`);
const stored = (name: string) => readAdapter(nodeFiles, `${cases}/${name}/adapter`);

const goldens = { "mixtral-target-parameters": "causal", "mixtral-all-linear": "causal", "lora-conv2d": "image-class" };

for (const [name, kind] of Object.entries(goldens)) {
  test(`${name}: a session takes the adapter, drops it, and takes it again without opening anew`, async () => {
    const base = await opened(name);
    const adapter = fitAdapter(await stored(name), base.modules);
    const io = await readTensors(`${cases}/${name}/io.safetensors`);
    const task = caseTask(kind, base);
    const saved = [...(adapter.saved ?? [])].map(([name, { shape }]) => ({ name, shape: [...shape] }));
    const graph = withSaved(forwardGraph(base.config), saved);
    const engine = { openSession: openNodeSession };
    const { session, useAdapter, close } = adaptableSession(graph, weightFiles(base.checkpoint), engine);
    const heads: Record<"base" | "adapter", Record<string, Tensor>> = { base: {}, adapter: {} };
    for (const { name, shape } of saved) {
      heads.base[savedInput(name)] = float32([...shape], toFloat32(await readWeights(nodeFiles, base.checkpoint, name)));
      heads.adapter[savedInput(name)] = float32([...shape], adapter.saved!.get(name)!.data);
    }
    const feeds = forwardFeeds(task, task.batch(io, "", base.config));
    const defined = (output: Tensor) => task.defined?.(output, io, "", base.config) ?? toFloat32(output);
    const check = async (which: "base" | "adapter") => {
      await useAdapter(which === "base" ? null : adapter, heads[which]);
      const { logits } = await (await session()).run(feeds);
      near(defined(logits!), defined(io.get(`logits_${which}`)!), 3e-5, `logits_${which}`);
    };
    try {
      await check("base");
      await check("adapter");
      const before = await session();
      await check("base");
      await check("adapter");
      assert.equal(await session(), before);
    } finally {
      await close();
    }
  });

  test(`${name}: a new adapter has the configuration and the keys of PEFT's`, async (t) => {
    const base = await opened(name);
    const golden = await stored(name);
    const { rank, alpha } = golden.config;
    const given = name.endsWith("all-linear") ? loraConfig({ rank, alpha, targetModules: "all-linear" }) : golden.config;
    const { modelType } = base.config;
    const modules = matchModules(base.modules, given, modelType);
    const config = resolveConfig(given, base.modules, modules, modelType);
    const sorted = (list: string[] | string | null) => [...(list ?? [])].sort();
    assert.deepEqual(sorted(config.targetModules), sorted(golden.config.targetModules));
    assert.deepEqual(sorted(config.targetParameters), sorted(golden.config.targetParameters));
    assert.deepEqual([config.rankPattern, config.alphaPattern], [golden.config.rankPattern, golden.config.alphaPattern]);
    const keys = (trained: typeof golden.modules) =>
      layoutOf({ config, modules: trained }).map(({ key, shape }) => `${key} ${shape}`);
    assert.deepEqual(keys(modules).sort(), keys(golden.modules).sort());

    const made = { config, modules, tensors: initAdapter(modules, config, 1), ...(golden.saved && { saved: golden.saved }) };
    const folder = temporaryFolder(t);
    await writeAdapter(nodeFiles, folder, made);
    assert.deepEqual((await readAdapter(nodeFiles, folder)).tensors, made.tensors);
    for (const module of modules) {
      const { loraA, loraB } = made.tensors.get(module.path)!;
      const bound = 1 / Math.sqrt(module.inFeatures);
      assert.ok(loraA.every((value) => value !== 0 && Math.abs(value) <= bound));
      assert.ok(loraB.every((value) => value === 0));
    }
  });
}

test("experts of a layer that are stored in two tensors are merged where they lie", async (t) => {
  const name = "mixtral-target-parameters";
  const folder = temporaryFolder(t);
  const names = ["w1", "w3", "w2"];
  await cp(`${cases}/${name}/base/config.json`, `${folder}/base/config.json`);
  await stackExperts(`${cases}/${name}/base/model.safetensors`, `${folder}/base/model.safetensors`, names);
  await mergeAdapter(nodeFiles, { base: `${folder}/base`, adapter: `${cases}/${name}/adapter`, output: `${folder}/merged` });
  await stackExperts(`${cases}/${name}/merged/model.safetensors`, `${folder}/golden.safetensors`, names);
  const [got, want] = [`${folder}/merged/model.safetensors`, `${folder}/golden.safetensors`].map(readTensors);
  const wanted = await want!;
  for (const [key, tensor] of await got!) near(toFloat32(tensor), toFloat32(wanted.get(key)!), 1e-5, key);
});

test("the update of experts is described by all of them, and is neither combined nor resized", async () => {
  const adapter = await stored("mixtral-all-linear");
  const { modules } = describeAdapter(adapter);
  const { experts, rank, spectrum, normDelta, parameters } = modules.find(({ path }) => path.endsWith("gate_up_proj"))!;
  assert.deepEqual([experts, rank, spectrum!.values.length], [3, 4, 12]);
  assert.equal(parameters, 12 * 32 + 32 * 12);
  near(Math.hypot(...spectrum!.values), normDelta, 1e-5);
  assert.throws(() => combine([adapter, adapter]), { code: "lora/unsupported", subject: "target_parameters" });
  assert.throws(() => truncateAdapter(adapter, { rank: 1 }), { code: "lora/unsupported", subject: "target_parameters" });
});

test("what PEFT does not do with parameters is refused by name", async () => {
  const { modules } = await opened("mixtral-all-linear");
  const match = (fields: Parameters<typeof loraConfig>[0]) => () => matchModules(modules, loraConfig(fields), "mixtral");
  const refused = (fields: Parameters<typeof loraConfig>[0], subject: string, code = "lora/unsupported") =>
    assert.throws(match(fields), { code, subject });
  const targetParameters = ["experts.down_proj"];
  refused({ targetParameters, dropout: 0.1 }, "dropout");
  refused({ targetParameters, useDora: true }, "targetParameters");
  refused({ targetParameters: ["embed_tokens.weight"] }, "model.embed_tokens.weight");
  refused({ targetModules: ["q_proj"], targetParameters: ["q_proj.weight"] }, "model.layers.0.self_attn.q_proj");
  refused({ targetModules: ["w1", "q_proj"] }, "targetModules");
  refused({ targetParameters: ["experts.up_proj"] }, "targetParameters", "lora/no-match");
  refused({ targetModules: ["mlp.experts"] }, "targetModules", "lora/not-a-layer");
});

test("a weight of a linear layer can be a parameter, and older names of experts in an expression are found", async () => {
  const { modules } = await opened("mixtral-all-linear");
  const paths = (fields: Parameters<typeof loraConfig>[0]) =>
    matchModules(modules, loraConfig(fields), "mixtral").map(({ path, keyPath, rank }) => `${keyPath ?? path} ${rank}`);
  assert.deepEqual(
    paths({ targetModules: [], targetParameters: ["0.self_attn.q_proj.weight"], rankPattern: { "q_proj.weight": 3 } }),
    ["model.layers.0.self_attn.q_proj 3"],
  );
  const alone = { targetModules: [], targetParameters: ["1.mlp.experts.gate_up_proj"] };
  assert.deepEqual(paths(alone), ["model.layers.1.mlp.experts 8"], "alone, it is not wrapped twice");
  assert.deepEqual(
    paths({ targetModules: ".*\\.experts\\.w[13]" }),
    [0, 1].map((i) => `model.layers.${i}.mlp.experts 16`),
  );
});

test("all-linear leaves convolutions alone, and DoRA's magnitudes of one have its axes", async () => {
  const { modules, config } = await opened("lora-conv2d");
  const match = (fields: Parameters<typeof loraConfig>[0]) => matchModules(modules, loraConfig(fields), config.modelType);
  assert.ok(match({ targetModules: "all-linear" }).every(({ kernel }) => kernel === undefined));
  const given = loraConfig({ rank: 2, targetModules: ["projection"], useDora: true });
  const shapes = layoutOf({ config: given, modules: match(given) }).map(({ shape }) => shape.join());
  assert.deepEqual(shapes, ["2,3,4,4", "32,2,1,1", "1,32,1,1"]);
});

test("experts that an adapter of Transformers 4 has as modules become parameters, as PEFT makes of them", async () => {
  const { modules } = await opened("mixtral-all-linear");
  const read = (name: string) => readAdapter(nodeFiles, `${fixtures}/older-experts/${name}`);
  const older = await read("adapter-v4");
  assert.ok(older.modules.some(({ path }) => path.endsWith("block_sparse_moe.experts.0.w1")));
  const [ours, theirs] = [fitAdapter(older, modules), fitAdapter(await read("adapter"), modules)];
  const byPath = <T>(list: Iterable<[string, T]>) => [...list].sort(([a], [b]) => (a < b ? -1 : 1));
  assert.deepEqual(byPath(ours.tensors), byPath(theirs.tensors));
  const facts = (adapter: typeof ours) => byPath(adapter.modules.map((module) => [module.path, module] as [string, object]));
  assert.deepEqual(facts(ours), facts(theirs));
  assert.deepEqual(byPath(matchModules(modules, ours.config, "mixtral").map((module) => [module.path, module])), facts(ours));
  const uneven = { ...older, modules: older.modules.filter(({ path }) => !path.endsWith("experts.0.w1")) };
  assert.throws(() => fitAdapter(uneven, modules), {
    code: "lora/unsupported",
    subject: "model.layers.0.mlp.experts.gate_up_proj",
  });
});
