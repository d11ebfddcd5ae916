// Models with other heads than language models where their goldens do not look: pooling, padding, configs of several ages, refusals.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { inspectBase } from "../../src/commands/inspect/inspect.ts";
import { check } from "../../src/graph/graph.ts";
import { whole } from "../../src/graph/stages.ts";
import { openBase } from "../../src/models/base.ts";
import { forwardGraph, type ModelConfig, modelConfig } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { float32, int32, sizeOf, type Tensor } from "../../src/tensor.ts";
import { loraObjective } from "../../src/train/objective.ts";
import { fullEntries, fullGraph } from "../../src/train/training-graph.ts";
import { near, refusedSync } from "../helpers/assert.ts";
import { lossOf, ownLoss } from "../helpers/loss.ts";
import { printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { decoderConfig } from "../helpers/tiny-decoder.ts";

const cases = `${fixtures}/cases`;
const { checkpoint: clip } = await openBase(nodeFiles, `${cases}/clip-contrastive/base`);
const { checkpoint: bert } = await openBase(nodeFiles, `${cases}/bert-seqcls/base`);

/** The outputs of the model that `config` describes, with the weights of `checkpoint`. */
async function run(checkpoint: typeof clip, config: ModelConfig, feeds: Record<string, Tensor>) {
  const files = weightFiles(checkpoint);
  const session = await openNodeSession(whole(check(forwardGraph(config))), { weights: files });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

const rows = (values: number[][]): Tensor => int32([values.length, values[0]!.length], Int32Array.from(values.flat()));
const textEmbeds = async (config: ModelConfig, ids: number[][], mask = ids.map((row) => row.map(() => 1))) => {
  const pixels = float32([ids.length, 3, 16, 16], new Float32Array(ids.length * 3 * 256));
  return (await run(clip, config, { inputIds: rows(ids), attentionMask: rows(mask), pixelValues: pixels }))["textEmbeds"]!;
};

test("a text stands for itself up to its first end token, whatever follows", async () => {
  const config = modelConfig(clip.config);
  const short = await textEmbeds(config, [[1, 7, 8, 95]]);
  near(await textEmbeds(config, [[1, 7, 8, 95, 95, 95]]), short, 1e-5, "padded with the end token");
  near(await textEmbeds(config, [[1, 7, 8, 95, 20, 30]], [[1, 1, 1, 1, 0, 0]]), short, 1e-5, "padded and masked");
  near(
    await textEmbeds(config, [[1, 7, 8]]),
    await textEmbeds(
      config,
      [[1, 95, 8]].map(([a]) => [a!, 7, 8]),
    ),
    1e-5,
    "no end token",
  );
  const first = await textEmbeds(config, [
    [1, 7, 8],
    [1, 60, 61],
  ]);
  near(
    float32([20], (first.data as Float32Array).slice(0, 20)),
    float32([20], (first.data as Float32Array).slice(20)),
    1e-5,
    "no end: the first token",
  );
});

test("where the config's end token is wrong (2, before Transformers 4.31), the greatest id ends a text", async () => {
  const old = { ...clip.config, text_config: { ...(clip.config["text_config"] as object), eos_token_id: 2 } };
  const ids = [
    [1, 7, 95, 95],
    [1, 94, 8, 8],
  ];
  const got = await textEmbeds(modelConfig(old), ids);
  const want = await textEmbeds(modelConfig(clip.config), [[1, 7, 95, 95]]);
  near(float32([20], (got.data as Float32Array).slice(0, 20)), want, 1e-5, "the first of two");
  const other = { ...clip.config, text_config: { ...(clip.config["text_config"] as object), eos_token_id: 94 } };
  const second = await textEmbeds(modelConfig(other), [[1, 94, 8, 8]]);
  near(float32([20], (got.data as Float32Array).slice(20)), second, 1e-5, "the greatest of its own row");
});

test("padding changes no classification, token types do", async () => {
  const config = modelConfig(bert.config);
  const ids = [3, 50, 60, 4];
  const feeds = (more: number, type: number) => ({
    inputIds: rows([[...ids, ...Array<number>(more).fill(9)]]),
    attentionMask: rows([[...ids.map(() => 1), ...Array<number>(more).fill(0)]]),
    tokenTypeIds: rows([[0, 0, type, type, ...Array<number>(more).fill(0)]]),
  });
  const plain = (await run(bert, config, feeds(0, 0)))["logits"]!;
  near((await run(bert, config, feeds(5, 0)))["logits"]!, plain, 1e-5, "padded");
  const typed = (await run(bert, config, feeds(0, 1)))["logits"]!;
  assert.ok((typed.data as Float32Array).some((value, i) => Math.abs(value - Number(plain.data[i])) > 1e-3));
});

test("configs of several ages are read alike", () => {
  const { text_config: text, vision_config: vision, ...rest } = clip.config;
  assert.deepEqual(
    modelConfig({ ...rest, text_config_dict: text, vision_config_dict: vision, text_config: {}, vision_config: null }),
    modelConfig(clip.config),
  );
  const labels = (keys: object) => modelConfig({ model_type: "bert", ...keys }).labels;
  assert.deepEqual(labels({}), ["LABEL_0", "LABEL_1"]);
  assert.deepEqual(labels({ num_labels: 3 }), ["LABEL_0", "LABEL_1", "LABEL_2"]);
  assert.deepEqual(labels({ id2label: { 1: "good", 0: "bad" } }), ["bad", "good"]);
});

test("what a classifier's labels are is read as config.json says it", () => {
  const read = (keys: object) => {
    const { head, labels, problemType } = modelConfig({ model_type: "bert", ...keys });
    return [head, labels.length, problemType];
  };
  assert.deepEqual(read({ num_labels: 1 }), ["sequence-classifier", 1, null]);
  const problem_type = "multi_label_classification";
  assert.deepEqual(read({ num_labels: 4, problem_type }), ["sequence-classifier", 4, problem_type]);
});

test("a model without the classifier has one added, which is no parameter of the base", () => {
  const head = (architectures?: string[]) => modelConfig({ model_type: "vit", architectures }).uninitializedHead;
  assert.equal(head(), "classifier");
  assert.equal(head(["ViTModel"]), "classifier");
  assert.equal(head(["ViTForImageClassification"]), null);
});

test("what is not built is refused by the key that asks for it", () => {
  const failure = (config: Record<string, unknown>) => {
    const error = refusedSync(() => modelConfig(config, "config.json"));
    assert.ok(error.expected && error.got, error.describe());
    return `${error.code} ${error.subject} ${error.message}`;
  };
  assert.match(failure({ model_type: "bert", is_decoder: true }), /^model\/unsupported .*is_decoder/);
  assert.match(
    failure({ model_type: "bert", position_embedding_type: "relative_key" }),
    /^model\/unsupported .*position_embedding_type/,
  );
  assert.match(failure({ model_type: "vit", hidden_size: 10 }), /^model\/config .*hidden_size/);
  assert.match(failure({ model_type: "vit", image_size: 8 }), /^model\/config .*patch_size/);
  assert.match(failure({ model_type: "clip", text_config: { eos_token_id: [1, 2] } }), /^model\/config .*eos_token_id/);
  assert.match(failure({ model_type: "clip", vision_config: { num_channels: 0 } }), /^model\/config .*num_channels/);
});

test("lowrank inspect shows what such a model is for, and its labels", async () => {
  const found = await inspectBase(nodeFiles, `${cases}/bert-seqcls/base`);
  assert.equal(
    found.parameters,
    [...bert.tensors.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0),
  );
  const { stdout } = await printed("inspect", `${cases}/bert-seqcls/base`);
  assert.match(stdout, /bert model for sequence classification/);
  assert.match(stdout, /3: LABEL_0, LABEL_1, LABEL_2/);
  assert.match(stdout, /^classifier +32 +3 +1$/m);
});

test("where a language model is needed, a model of another task is refused as one", () => {
  assert.throws(() => decoderConfig({ model_type: "bert" }), {
    code: "model/unsupported",
    message: /the head sequence-classifier/,
  });
  assert.equal(decoderConfig({ model_type: "llama" }).modelType, "llama");
});

test("every weight of a tower can be trained: the graph of full fine-tuning has a gradient for each", () => {
  for (const checkpoint of [clip, bert]) {
    const loss = ownLoss(modelConfig(checkpoint.config));
    const entries = fullEntries(loss);
    assert.equal(
      entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
      [...checkpoint.tensors.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    );
    const gradients = Object.keys(fullGraph(loss).outputs).filter((name) => name.startsWith("gradient "));
    assert.equal(gradients.length, entries.length);
  }
});

test("dropout reaches layers that read tokens, patches and pooled rows; in evaluation it is off", async () => {
  const { config, modules } = await openBase(nodeFiles, `${cases}/clip-contrastive/base`);
  const lora = loraConfig({ targetModules: ["q_proj", "text_projection"], initLoraWeights: false });
  const adapted = matchModules(modules, lora, "clip");
  const loss = ownLoss(config);
  const pixels = float32(
    [2, 3, 16, 16],
    Float32Array.from({ length: 2 * 3 * 256 }, (_, i) => Math.sin(i)),
  );
  const feeds = {
    inputIds: rows([
      [1, 7, 95],
      [1, 9, 95],
    ]),
    attentionMask: rows([
      [1, 1, 1],
      [1, 1, 1],
    ]),
    pixelValues: pixels,
  };
  const batch = { feeds, targets: 2, tokens: 6 };
  const losses = new Map<number, { plain: number; step: number }>();
  for (const dropout of [0, 0.5]) {
    const objective = await loraObjective({
      checkpoint: clip,
      loss,
      config: lora,
      modules: adapted,
      dropout,
      openSession: openNodeSession,
    });
    const theta = new Float32Array(objective.entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0)).map(
      (_, i) => Math.cos(i) / 3,
    );
    const plain = await lossOf(objective, batch, theta);
    const { loss: step } = await objective.lossAndGradient(batch, theta, 1, { seed: 1, step: 0, micro: 0 });
    losses.set(dropout, { plain, step });
    await objective.close();
  }
  assert.equal(losses.get(0.5)!.plain, losses.get(0)!.plain);
  assert.equal(losses.get(0)!.step, losses.get(0)!.plain);
  assert.ok(Math.abs(losses.get(0.5)!.step - losses.get(0)!.step) > 1e-4);
});
