// Models made from a config alone: every family gets the weights that its graph reads, with values that it can be trained from.
// slow
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { initModel } from "../../src/index.ts";
import { modelTypes } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const place = temporaryFolder();

const configOf = (name: string) => JSON.parse(readFileSync(`${cases}/${name}/base/config.json`, "utf8"));
/** A golden case of each model type. */
const examples = new Map<string, string>(readdirSync(cases).map((name) => [configOf(name).model_type, name]));

const opened = async (folder: string) => {
  const checkpoint = await openCheckpoint(nodeFiles, folder);
  return { checkpoint, values: async (name: string) => toFloat32(await readWeights(nodeFiles, checkpoint, name)) };
};

test("there is a case of every model type", () => {
  // smolvlm is idefics3 under another name
  assert.deepEqual(
    modelTypes.filter((type) => !examples.has(type)),
    ["smolvlm"],
  );
});

for (const [type, name] of examples) {
  test(`${type}: the tensors of a checkpoint from Transformers, normal, one or zero`, async () => {
    const folder = `${place}/${type}`;
    await initModel(configOf(name), folder);
    const { checkpoint, values } = await opened(folder);
    const theirs = await openCheckpoint(nodeFiles, `${cases}/${name}/base`);
    const shapes = (tensors: typeof checkpoint.tensors) => [...tensors.values()].map(({ shape }) => shape.join("x")).sort();
    assert.deepEqual(checkpoint.config, configOf(name));
    assert.deepEqual(shapes(checkpoint.tensors), shapes(theirs.tensors));
    for (const [tensor, { shape }] of checkpoint.tensors) {
      const all = await values(tensor);
      const mean = all.reduce((sum, value) => sum + value, 0) / all.length;
      const deviation = Math.sqrt(all.reduce((sum, value) => sum + (value - mean) ** 2, 0) / all.length);
      const isGate = tensor.includes(".alpha_");
      if (tensor === "logit_scale")
        assert.deepEqual([...all], [1.5]); // the config's
      else if (tensor.endsWith("class_embedding") || (shape.length > 1 && !isGate)) {
        assert.ok(Math.abs(deviation - 0.02) < 0.01 && Math.abs(mean) < 0.01, `${tensor}: ${mean} ± ${deviation}`);
      } else
        assert.deepEqual([...new Set(all)], [isGate || tensor.endsWith(".bias") || type.startsWith("gemma") ? 0 : 1], tensor);
    }
  });
}

test("a seed makes the same model again, another seed another one, in the config's dtype", async () => {
  const config = { ...configOf("llama-gqa-tied"), dtype: "bfloat16", initializer_range: 0.5 };
  const bytes = async (folder: string, seed?: number) => {
    await initModel(config, `${place}/${folder}`, seed === undefined ? {} : { seed });
    return readFileSync(`${place}/${folder}/model.safetensors`);
  };
  const first = await bytes("first");
  assert.deepEqual(await bytes("second", 0), first);
  assert.notDeepEqual(await bytes("third", 1), first);
  const { checkpoint, values } = await opened(`${place}/first`);
  const table = await values("model.embed_tokens.weight");
  assert.equal(checkpoint.tensors.get("model.embed_tokens.weight")!.dtype, "bfloat16");
  const deviation = Math.sqrt(table.reduce((sum, value) => sum + value ** 2, 0) / table.length);
  assert.ok(Math.abs(deviation - 0.5) < 0.05, String(deviation));
});

test("parts of a model have the deviations of their own configs, and what is of none has the language model's", async () => {
  const { text_config: text, vision_config: vision, ...whole } = configOf("llava");
  const given = { text_config: { ...text, initializer_range: 0.3 }, vision_config: { ...vision, initializer_range: 0.05 } };
  const deviations = async (folder: string, config: object) => {
    await initModel(config as Record<string, unknown>, `${place}/${folder}`);
    const { values } = await opened(`${place}/${folder}`);
    const names = ["model.language_model.embed_tokens", "model.vision_tower.embeddings.patch_embedding", "lm_head"];
    return Promise.all(
      names.map(async (name) => {
        const all = await values(`${name}.weight`);
        return Number(Math.sqrt(all.reduce((sum, value) => sum + value ** 2, 0) / all.length).toFixed(2));
      }),
    );
  };
  assert.deepEqual(await deviations("parts", { ...whole, ...given }), [0.3, 0.05, 0.3]);
  assert.deepEqual(await deviations("whole", { ...whole, ...given, initializer_range: 0.1 }), [0.3, 0.05, 0.1]);
});

test("config.json has floats where Transformers takes nothing else", async () => {
  const config = { ...configOf("clip-contrastive"), initializer_factor: 1 };
  await initModel(config, `${place}/floats`);
  const text = readFileSync(`${place}/floats/config.json`, "utf8");
  assert.deepEqual(JSON.parse(text), config);
  assert.equal(text.match(/"initializer_factor": 1\.0,/g)?.length, 3);
  assert.match(text, /"projection_dim": 20,/);
});

test("a classifier's head is there if the architecture has one", async () => {
  const bare = { ...configOf("bert-seqcls"), architectures: ["BertForMaskedLM"] };
  await initModel(bare, `${place}/bare`);
  const { checkpoint } = await opened(`${place}/bare`);
  assert.deepEqual(
    [...checkpoint.tensors.keys()].filter((name) => name.startsWith("classifier")),
    [],
  );
});

test("weights that are there stay, and a config that can't be built leaves no folder", async () => {
  const config = configOf("llama-gqa-tied");
  await initModel(config, `${place}/kept`);
  await assert.rejects(initModel(config, `${place}/kept`, { seed: 3 }), { code: "model/exists" });
  await assert.rejects(initModel({ ...config, model_type: "unknown" }, `${place}/none`), { code: "model/unsupported" });
  assert.ok(!readdirSync(place).includes("none"));
});
