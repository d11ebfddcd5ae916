// lora/saved.ts and fit.ts: which modules are trained in full beside an adapter, how they are stored, merged and renamed.
import assert from "node:assert/strict";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { fitAdapter } from "../../src/adapters/attach.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { initSaved } from "../../src/adapters/init.ts";
import { matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { type Adapter, readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { savedWeights } from "../../src/adapters/saved.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { openBase } from "../../src/models/base.ts";
import { allModulesOf, forwardGraph, modelConfig, modulesOf } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { float32, int32, sizeOf } from "../../src/tensor.ts";
import { loraObjective } from "../../src/train/objective.ts";
import { near } from "../helpers/assert.ts";
import { lossOf, ownLoss } from "../helpers/loss.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const bert = modulesOf(forwardGraph(modelConfig({ model_type: "bert", hidden_size: 24, num_hidden_layers: 1, num_labels: 5 })));
const llama = allModulesOf(
  forwardGraph(modelConfig({ model_type: "llama", hidden_size: 24, num_attention_heads: 4, num_hidden_layers: 1 })),
);
const mixture = allModulesOf(
  forwardGraph(
    modelConfig({ model_type: "mixtral", hidden_size: 24, num_attention_heads: 4, num_key_value_heads: 2, num_hidden_layers: 1 }),
  ),
);

/** What of `modules` such an adapter trains in full. */
function savedOf(fields: Parameters<typeof loraConfig>[0], modules: typeof bert) {
  const config = loraConfig(fields);
  return savedWeights(modules, config, matchModules(modules, config, "-"));
}

test("a classification task saves the classifier, as PEFT does, and writes it down", () => {
  const head = [
    { name: "classifier.weight", shape: [5, 24] },
    { name: "classifier.bias", shape: [5] },
  ];
  const config = loraConfig({ taskType: "SEQ_CLS" });
  assert.deepEqual(savedWeights(bert, config), head);
  assert.deepEqual(savedWeights(bert, loraConfig({ modulesToSave: ["classifier"] })), head);
  assert.deepEqual(savedWeights(bert, loraConfig({ modulesToSave: ["ssifier"] })), head, "the letters it ends in are enough");
  assert.deepEqual(savedWeights(bert, loraConfig()), []);
  const matched = matchModules(bert, config, "bert");
  assert.deepEqual(resolveConfig(config, bert, matched, "bert").modulesToSave, ["classifier", "score"]);
  assert.equal(resolveConfig(loraConfig(), bert, matched, "bert").modulesToSave, null);
});

test("exclusions come first, then what is saved, then targets", () => {
  const paths = (options: Parameters<typeof loraConfig>[0]) =>
    matchModules(bert, loraConfig(options), "bert").map((module) => module.path.replace("bert.encoder.layer.0.", ""));
  const targetModules = ["classifier", "query"];
  assert.deepEqual(paths({ targetModules }), ["attention.self.query", "classifier"]);
  assert.deepEqual(paths({ targetModules, modulesToSave: ["classifier"] }), ["attention.self.query"]);
  assert.deepEqual(paths({ targetModules, taskType: "SEQ_CLS" }), ["attention.self.query"]);
  assert.deepEqual(paths({ targetModules, excludeModules: ["classifier"] }), ["attention.self.query"]);
});

test("what cannot be saved is refused by name", () => {
  const refused = (entries: string[], code: string, modules = bert, targetModules = ".*query|.*q_proj") =>
    assert.throws(() => savedOf({ targetModules, modulesToSave: entries }, modules), { code }, entries.join());
  refused(["model.layers"], "lora/unsupported", llama); // PEFT: "modules_to_save cannot be applied to modules of type ModuleList"
  refused(["clasifier"], "lora/no-match");
  refused(["pooler.dens"], "lora/no-match");
  refused(["mlp", "down_proj"], "lora/unsupported", llama); // PEFT's own file of it can't be loaded
  refused(["attn"], "lora/unsupported", llama); // its letters end self_attn, whose q_proj has factors: likewise
  refused(["_proj"], "lora/unsupported", llama);
  refused(["mlp"], "lora/unsupported", mixture);
  refused(["gate"], "lora/unsupported", mixture);
});

test("a group is saved with every weight in it, and its layers get no factors", () => {
  const names = (entry: string, modules = llama, targetModules = ["v_proj", "up_proj"]) =>
    savedOf({ targetModules, modulesToSave: [entry] }, modules).map(({ name }) => name);
  const mlp = ["gate_proj", "up_proj", "down_proj"].map((name) => `model.layers.0.mlp.${name}.weight`);
  assert.deepEqual(names("mlp"), mlp);
  assert.deepEqual(names("self_attn").length, 4);
  assert.deepEqual(names("layers.0", llama, ["lm_head"]).length, 4 + 3 + 2);
  assert.deepEqual(names("bert.pooler", bert, ["query"]), ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]);
  const chosen = matchModules(llama, loraConfig({ targetModules: ["v_proj", "up_proj"], modulesToSave: ["mlp"] }), "llama");
  assert.deepEqual(
    chosen.map(({ path }) => path),
    ["model.layers.0.self_attn.v_proj"],
  );
});

test("other linear layers can be saved as well, every one that an entry names", () => {
  const names = (entry: string) => savedWeights(bert, loraConfig({ modulesToSave: [entry] })).map(({ name }) => name);
  assert.deepEqual(names("pooler.dense"), ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]);
  assert.deepEqual(names("output.dense"), [
    ...["weight", "bias"].map((name) => `bert.encoder.layer.0.attention.output.dense.${name}`),
    ...["weight", "bias"].map((name) => `bert.encoder.layer.0.output.dense.${name}`),
  ]);
});

test("a projection that is saved is trained, and only it and the factors have gradients", async () => {
  const { checkpoint, config, modules } = await openBase(nodeFiles, `${cases}/clip-contrastive/base`);
  const lora = loraConfig({
    targetModules: ["q_proj", "visual_projection"],
    modulesToSave: ["visual_projection"],
    initLoraWeights: false,
  });
  const adapted = matchModules(modules, lora, "clip");
  assert.ok(adapted.every(({ path }) => path.endsWith("q_proj")));
  const saved = savedWeights(modules, lora);
  const loss = ownLoss(config);
  const objective = await loraObjective({
    checkpoint,
    loss,
    config: lora,
    modules: adapted,
    saved,
    dropout: 0,
    openSession: openNodeSession,
  });
  const entry = objective.entries.at(-1)!;
  assert.equal(entry.key, "base_model.model.visual_projection.weight");
  const theta = new Float32Array(entry.offset + sizeOf(entry.shape));
  const own = toFloat32(await readWeights(nodeFiles, checkpoint, "visual_projection.weight"));
  theta.set(own, entry.offset);
  const rows = (values: number[]) => int32([2, 3], Int32Array.from(values));
  const pixelValues = float32(
    [2, 3, 16, 16],
    Float32Array.from({ length: 2 * 3 * 256 }, (_, i) => Math.sin(i)),
  );
  const feeds = { inputIds: rows([1, 7, 95, 1, 9, 95]), attentionMask: rows([1, 1, 1, 1, 1, 1]), pixelValues };
  const batch = { feeds, targets: 2, tokens: 6 };
  const { gradient } = await objective.lossAndGradient(batch, theta, 1, { seed: 0, step: 0, micro: 0 });
  const slope = gradient.slice(entry.offset);
  const at = slope.reduce((best, value, i) => (Math.abs(value) > Math.abs(slope[best]!) ? i : best), 0);
  const shifted = async (by: number) => {
    const moved = theta.map((value, i) => (i === entry.offset + at ? value + by : value));
    return lossOf(objective, batch, moved);
  };
  const difference = ((await shifted(1e-3)) - (await shifted(-1e-3))) / 2e-3;
  await objective.close();
  assert.ok(Math.abs(difference - slope[at]!) < 1e-3 + 0.01 * Math.abs(slope[at]!), `${difference} ${slope[at]}`);
  assert.ok(Math.abs(slope[at]!) > 0.01, `${slope[at]}`);
});

test("an adapter's file has the saved weights under their plain names, and comes back the same", async (t) => {
  const folder = temporaryFolder(t);
  const read = await readAdapter(nodeFiles, `${cases}/bert-seqcls/adapter`);
  assert.deepEqual([...read.saved!.keys()].sort(), ["classifier.bias", "classifier.weight"]);
  await writeAdapter(nodeFiles, folder, read);
  assert.deepEqual(await readAdapter(nodeFiles, folder), read);
});

test("saved weights that a model or a configuration does not have are named", async () => {
  const { modules } = await openBase(nodeFiles, `${cases}/bert-seqcls/base`);
  const adapter = await readAdapter(nodeFiles, `${cases}/bert-seqcls/adapter`);
  const without = (names: string[]): Adapter => ({
    ...adapter,
    saved: new Map([...adapter.saved!].filter(([name]) => !names.includes(name))),
  });
  assert.deepEqual(fitAdapter(adapter, modules), adapter);
  const failure = (given: Adapter, given2 = modules) => {
    try {
      fitAdapter(given, given2);
    } catch (error) {
      return error as { code: string; subject: string };
    }
    return assert.fail("it fits");
  };
  const cut = failure(without(["classifier.bias"]));
  assert.deepEqual([cut.code, cut.subject], ["adapter/no-saved", "classifier.bias"]);
  const others = modules.map((module) => (module.path === "classifier" ? { ...module, outFeatures: 7 } : module));
  assert.equal(failure(adapter, others).code, "adapter/other-base");
  const headless = modules.filter(({ path }) => path !== "classifier");
  assert.deepEqual(
    [failure(adapter, headless).code, failure(adapter, headless).subject],
    ["adapter/no-module", "classifier.bias"],
  );
});

test("an adapter under the module names of Transformers 4 is the same adapter, and is written under those of 5", async (t) => {
  const folder = temporaryFolder(t);
  const { modules, config } = await openBase(nodeFiles, `${cases}/vit-imgcls/base`);
  const [older, newer] = await Promise.all(
    ["adapter-v4", "adapter"].map(async (name) =>
      fitAdapter(await readAdapter(nodeFiles, `${cases}/vit-imgcls/${name}`), modules),
    ),
  );
  assert.deepEqual(older!.tensors, newer!.tensors);
  assert.deepEqual([...(older!.config.targetModules as string[])].sort(), ["fc1", "q_proj", "v_proj"]);
  await writeAdapter(nodeFiles, folder, older!);
  const again = await readAdapter(nodeFiles, folder);
  assert.deepEqual(again.tensors, newer!.tensors);
  assert.deepEqual(matchModules(modules, again.config, config.modelType), newer!.modules);
});

test("ranks by the older names stay with their modules", async (t) => {
  const folder = temporaryFolder(t);
  const { modules } = await openBase(nodeFiles, `${cases}/vit-imgcls/base`);
  const given = await readAdapter(nodeFiles, `${cases}/vit-imgcls/adapter-v4`);
  const value = (module: { path: string }) => /layer\.1\..*value/.test(module.path);
  const [ranked] = given.modules.filter(value);
  const config = { ...given.config, alphaPattern: { "layer.1.attention.attention.value": 3 } };
  const adapter = {
    ...given,
    config,
    modules: given.modules.map((module) => (module === ranked ? { ...module, alpha: 3, scale: 3 / 4 } : module)),
  };
  await writeAdapter(nodeFiles, folder, fitAdapter(adapter, modules));
  const again = await readAdapter(nodeFiles, folder);
  assert.deepEqual(
    again.modules.filter(({ alpha }) => alpha === 3).map(({ path, scale }) => [path, scale]),
    [["vit.layers.1.attention.v_proj", 0.75]],
  );
});

test("merging puts the saved head in the place of the base's, and adds one that the base lacks", async (t) => {
  const folder = temporaryFolder(t);
  await cp(`${cases}/bert-seqcls/base`, `${folder}/base`, { recursive: true });
  await rm(`${folder}/base/model.safetensors`);
  const whole = await openCheckpoint(nodeFiles, `${cases}/bert-seqcls/base`);
  const bare = [...whole.tensors.keys()].filter((name) => !name.startsWith("classifier."));
  const sources = bare.map(async (name) => {
    const { dtype, shape, data } = await readWeights(nodeFiles, whole, name);
    return { name: name.replace(/^bert\./, ""), dtype, shape, data: () => bytesOf(data) };
  });
  await writeSafetensors(nodeFiles, `${folder}/base/model.safetensors`, await Promise.all(sources), { format: "pt" });
  const adapter = `${cases}/bert-seqcls/adapter`;
  const expected = await openCheckpointOf(`${cases}/bert-seqcls`, folder);
  for (const base of [`${cases}/bert-seqcls/base`, `${folder}/base`]) {
    const output = `${folder}/merged-${base === `${folder}/base`}`;
    await mergeAdapter(nodeFiles, { base, adapter, output });
    const merged = await openCheckpoint(nodeFiles, output);
    assert.equal(merged.tensors.size, expected.tensors.size);
    for (const name of expected.tensors.keys()) {
      const theirs = toFloat32(await readWeights(nodeFiles, expected, name));
      near(toFloat32(await readWeights(nodeFiles, merged, name)), theirs, 1e-6, name);
    }
  }
});

/** The merged checkpoint of a golden case, which has no config of its own. */
async function openCheckpointOf(golden: string, folder: string) {
  await cp(`${golden}/base/config.json`, `${folder}/golden/config.json`);
  await cp(`${golden}/merged/model.safetensors`, `${folder}/golden/model.safetensors`);
  return openCheckpoint(nodeFiles, `${folder}/golden`);
}

test("a new head is normal with deviation 0.02, its bias zero, and follows from the seed", () => {
  const weight = initSaved("classifier.weight", [40, 100], 1);
  const mean = weight.reduce((sum, value) => sum + value, 0) / weight.length;
  const deviation = Math.sqrt(weight.reduce((sum, value) => sum + (value - mean) ** 2, 0) / weight.length);
  assert.ok(Math.abs(mean) < 0.002 && Math.abs(deviation - 0.02) < 0.001, `${mean} ${deviation}`);
  assert.deepEqual(initSaved("classifier.weight", [40, 100], 1), weight);
  assert.notDeepEqual(initSaved("classifier.weight", [40, 100], 2), weight);
  assert.deepEqual(initSaved("classifier.bias", [40], 1), new Float32Array(40));
});

test("a checkpoint from TensorFlow's days has gamma and beta", async (t) => {
  const folder = temporaryFolder(t);
  await writeFile(`${folder}/config.json`, await readFile(`${cases}/bert-seqcls/base/config.json`));
  const whole = await openCheckpoint(nodeFiles, `${cases}/bert-seqcls/base`);
  const older = (name: string) => name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
  const sources = [...whole.tensors.keys()].map(async (name) => {
    const { dtype, shape, data } = await readWeights(nodeFiles, whole, name);
    return { name: older(name), dtype, shape, data: () => bytesOf(data) };
  });
  await writeSafetensors(nodeFiles, `${folder}/model.safetensors`, await Promise.all(sources), { format: "pt" });
  const { checkpoint } = await openBase(nodeFiles, folder);
  assert.equal(checkpoint.aliases!.get("bert.embeddings.LayerNorm.weight"), "bert.embeddings.LayerNorm.gamma");
  assert.equal(checkpoint.aliases!.size, 2 * (1 + 2 * 2));
});
