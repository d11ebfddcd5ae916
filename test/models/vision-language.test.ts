// Models that read images: decoding with a cache, batches with and without images, LoRA anywhere, names of other releases.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { batchOf, readTensors } from "../../scripts/oracle/golden.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { thetaOf } from "../../src/adapters/layout.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { rowFeeds } from "../../src/data/batch.ts";
import type { Batch } from "../../src/data/types.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { type ModelDecoder, openDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import { whole } from "../../src/graph/stages.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import type { ImageTensors, ImageTokens } from "../../src/models/images.ts";
import { forwardGraph, modulesOf, olderNames, storedNames, visionOf } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { float32, int32, type Tensor } from "../../src/tensor.ts";
import { loraObjective, type OpenObjective } from "../../src/train/objective.ts";
import type { RunOptions } from "../../src/train/options.ts";
import { trainableModels } from "../../src/train/trainable-model.ts";
import { greatestDifference } from "../helpers/assert.ts";
import { lossOf } from "../helpers/loss.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { decoderConfig } from "../helpers/tiny-decoder.ts";

const TOLERANCE = 3e-5;
const cases = ["llava", "idefics3", "idefics"] as const;

interface Case {
  base: Base;
  adapter: Adapter;
  batch: Batch;
  tokens: ImageTokens;
  /** The rows without their padding. */
  rows: Int32Array[];
  images: ImageTensors;
  /** What PEFT computed for a token of a row: [vocab]. */
  golden: Record<"base" | "adapter", (row: number, position: number) => Float32Array>;
}

async function readCase(name: string): Promise<Case> {
  const folder = `${fixtures}/cases/${name}`;
  const base = await loadBase(nodeFiles, `${folder}/base`);
  const io = await readTensors(`${folder}/io.safetensors`);
  const batch = batchOf(io, "", base.config);
  const mask = (key: string) => {
    const given = io.get(key);
    return given && int32(given.shape, Int32Array.from(given.data as BigInt64Array, Number));
  };
  const inputIds = batch.feeds["inputIds"]!.data as Int32Array;
  const [count, width] = batch.feeds["inputIds"]!.shape as [number, number];
  const attentionMask = batch.feeds["attentionMask"]!.data as Int32Array;
  const golden = (key: string) => {
    const logits = toFloat32(io.get(key)!);
    return (row: number, position: number) => {
      const vocab = base.config.vocabSize;
      const at = row * width + position; // the cases are padded on the right
      return logits.subarray(at * vocab, (at + 1) * vocab);
    };
  };
  return {
    base,
    adapter: await readAdapter(nodeFiles, `${folder}/adapter`),
    batch,
    tokens: { rows: count, width, inputIds },
    rows: Array.from({ length: count }, (_, row) => {
      const length = attentionMask.subarray(row * width, (row + 1) * width).reduce((sum, one) => sum + one, 0);
      return inputIds.slice(row * width, row * width + length);
    }),
    images: {
      pixelValues: io.get("pixel_values")!,
      pixelAttentionMask: mask("pixel_attention_mask"),
      imageAttentionMask: mask("image_attention_mask"),
    },
    golden: { base: golden("logits_base"), adapter: golden("logits_adapter") },
  };
}

/** The image attention mask of the first columns of each row, as many as `ends` says, padded on the left. */
function seenOf(mask: Tensor | undefined, ends: number[]): Tensor | undefined {
  if (!mask) return undefined;
  const [rows, width, images] = mask.shape as [number, number, number];
  const longest = Math.max(...ends);
  const seen = new Int32Array(rows * longest * images);
  for (const [row, end] of ends.entries()) {
    const from = row * width * images;
    seen.set((mask.data as Int32Array).subarray(from, from + end * images), (row * longest + longest - end) * images);
  }
  return int32([rows, longest, images], seen);
}

/** Feeds all but the last `steps` tokens of each row with the images, then the others one by one; compares all logits. */
async function agrees(decoder: ModelDecoder, { rows, images }: Case, steps: number, want: Case["golden"]["base"]): Promise<void> {
  const ends = rows.map((row) => row.length - steps);
  const prompts = leftPad(
    rows.map((row, i) => row.subarray(0, ends[i])),
    0,
  );
  const given = { ...images, imageAttentionMask: seenOf(images.imageAttentionMask, ends) };
  let logits = await decoder.start({ ...prompts, images: given });
  for (let step = 0; step <= steps; step++) {
    for (const [row, end] of ends.entries()) {
      const own = logits.subarray(row * decoder.vocabSize, (row + 1) * decoder.vocabSize);
      const worst = greatestDifference(own, want(row, end - 1));
      assert.ok(worst <= TOLERANCE, `row ${row}, position ${end - 1}: ${worst}`);
    }
    if (step === steps) break;
    logits = await decoder.step(
      Int32Array.from(rows, (row, i) => row[ends[i]!]!),
      Int32Array.from(ends),
    );
    ends.forEach((_, i) => void ends[i]!++);
  }
  await decoder.end();
}

for (const name of cases) {
  test(`${name}: cached decoding of a left-padded batch with images gives the full pass's logits, with and without adapter`, async () => {
    const given = await readCase(name);
    let opened = 0;
    const decoder = await openDecoder({
      ...given.base,
      openSession: (...session) => {
        opened++;
        return openNodeSession(...session);
      },
      threads: 1,
    });
    assert.equal(opened, 1, "the vision side is opened with the first image");
    await agrees(decoder, given, 2, given.golden.base);
    assert.equal(opened, 2);
    await decoder.useAdapter(given.adapter);
    await agrees(decoder, given, 2, given.golden.adapter);
    await decoder.useAdapter(null);
    await agrees(decoder, given, 1, given.golden.base);
    assert.ok(
      greatestDifference(given.golden.base(0, 8), given.golden.adapter(0, 8)) > 100 * TOLERANCE,
      "the adapter changes the logits",
    );
    await decoder.close();
  });
}

/** The logits of every token without a cache, [tokens, vocab]. */
async function fullLogits({ checkpoint, config }: Base, feeds: Record<string, Tensor>): Promise<Float32Array> {
  const files = weightFiles(checkpoint);
  const { logits } = forwardGraph(config).outputs;
  const session = await openNodeSession(whole({ outputs: { logits: logits! } }), {
    weights: files,
    threads: 1,
  });
  const result = await session.run(feeds);
  await session.close();
  return result["logits"]!.data as Float32Array;
}

test("an image whose tokens lie on both sides of where a long prompt is cut", async () => {
  const { base, images } = await readCase("llava");
  const pixelValues = float32([1, 3, 16, 16], (images.pixelValues.data as Float32Array).slice(0, 3 * 16 * 16));
  const length = 530;
  const ids = Int32Array.from({ length }, (_, i) => (i >= 510 && i < 514 ? 95 : 3 + ((i * i) % 90)));
  const prompts = leftPad([ids], 0);
  const { positionIds, attentionMask } = prompts;
  const tokens = { rows: 1, width: length, inputIds: ids, positionIds, attentionMask, segmentIds: new Int32Array(length) };
  const feeds = visionOf(base.config)!.feeds(base.config, tokens, { pixelValues });
  const want = (await fullLogits(base, { ...rowFeeds(tokens), ...feeds })).subarray(-base.config.vocabSize);
  const decoder = await openDecoder({ ...base, openSession: openNodeSession, threads: 1 });
  const got = await decoder.start({ ...prompts, images: { pixelValues } });
  const blind = await decoder.start(prompts);
  await decoder.close();
  assert.ok(greatestDifference(got, want) <= TOLERANCE, `${greatestDifference(got, want)}`);
  assert.ok(greatestDifference(blind, want) > 100 * TOLERANCE, "the image counts");
});

async function withObjective(
  given: Case,
  adapter: Adapter,
  images: boolean,
  work: (objective: OpenObjective) => Promise<void>,
  dropout = 0,
) {
  const objective = await loraObjective({
    checkpoint: given.base.checkpoint,
    loss: lossGraph(given.base.config, { maxTargets: 64, maxLength: 64, images }),
    config: adapter.config,
    modules: adapter.modules,
    dropout,
    openSession: openNodeSession,
    threads: 1,
  });
  try {
    await work(objective);
  } finally {
    await objective.close();
  }
}

/** An adapter on every linear layer, with values that change the logits. */
function everywhere({ modules, config: { modelType } }: Base): Adapter {
  const config = loraConfig({ rank: 2, alpha: 4, targetModules: "all-linear", initLoraWeights: false });
  const matched = matchModules(modules, config, modelType);
  return { config, modules: matched, tensors: initAdapter(matched, config, 3) };
}

const KEY = { seed: 0, step: 0, micro: 0 };

for (const name of cases) {
  test(`${name}: a batch without images in a run with images is a batch of text`, async () => {
    const given = await readCase(name);
    const adapter = everywhere(given.base);
    const theta = thetaOf(adapter);
    const names = ["inputIds", "positionIds", "attentionMask", "segmentIds", "lossRows", "lossLabels"];
    const texts = Object.fromEntries(names.map((name) => [name, given.batch.feeds[name]!]));
    const none = visionOf(given.base.config)!.feeds(given.base.config, given.tokens, null);
    const text: Batch = { ...given.batch, feeds: texts };
    let expected = { loss: 0, gradient: new Float32Array() };
    await withObjective(given, adapter, false, async (objective) => {
      const { loss, gradient } = await objective.lossAndGradient(text, theta, 1, KEY);
      expected = { loss, gradient: gradient.slice() };
    });
    await withObjective(given, adapter, true, async (objective) => {
      const { loss, gradient } = await objective.lossAndGradient({ ...text, feeds: { ...texts, ...none } }, theta, 1, KEY);
      assert.ok(Math.abs(loss - expected.loss) <= 1e-5 * expected.loss, `${loss} and ${expected.loss}`);
      assert.ok(greatestDifference(gradient, expected.gradient) <= 1e-4);
      const seeing = await lossOf(objective, given.batch, theta);
      assert.ok(Math.abs(seeing - loss) > 1e-3, "images count");
    });
  });

  test(`${name}: adapters reach every layer; what no logit reads keeps a gradient of zero`, async () => {
    const given = await readCase(name);
    const adapter = everywhere(given.base);
    const theta = thetaOf(adapter);
    await withObjective(given, adapter, true, async (objective) => {
      const gradient = (await objective.lossAndGradient(given.batch, theta, 1, KEY)).gradient.slice();
      const still = objective.entries
        .filter(({ offset, shape }) => gradient.subarray(offset, offset + shape[0]! * shape[1]!).every((slope) => slope === 0))
        .map(({ key }) => key.replace(/^base_model\.model\.(.*)\.lora_[AB]\.weight$/, "$1"));
      // Of two layers in the tower, LLaVA reads the state between them.
      const behind = /^model\.vision_tower\.encoder\.layers\.1\./;
      const expected = name === "llava" ? adapter.modules.filter(({ path }) => behind.test(path)).map(({ path }) => path) : [];
      assert.deepEqual([...new Set(still)].sort(), expected.sort());
      const inTower = objective.entries.filter(({ key }) => /vision.*layers\.0\..*(k_proj|fc2)\.lora_/.test(key));
      assert.equal(inTower.length, 4);
      for (const { key, offset } of [...inTower, ...objective.entries.slice(-2)]) {
        const step = 1e-2;
        const at = async (change: number) => {
          const moved = theta.slice();
          moved[offset]! += change;
          return lossOf(objective, given.batch, moved);
        };
        const slope = ((await at(step)) - (await at(-step))) / (2 * step);
        assert.ok(Math.abs(slope - gradient[offset]!) <= 3e-3 + 2e-2 * Math.abs(slope), `${key}: ${slope}, ${gradient[offset]}`);
      }
    });
  });
}

test("dropout acts on patches and features as on tokens, the same at the same step, and not in evaluation", async () => {
  const given = await readCase("llava");
  const all = everywhere(given.base);
  const tower = all.modules.filter(({ path }) => /vision_tower|projector/.test(path));
  const adapter = { ...all, modules: tower };
  const theta = thetaOf(adapter);
  let without = 0;
  await withObjective(given, adapter, true, async (objective) => {
    without = await lossOf(objective, given.batch, theta);
  });
  const work = async (objective: OpenObjective) => {
    const at = async (step: number) => (await objective.lossAndGradient(given.batch, theta, 1, { ...KEY, step })).loss;
    assert.ok(Math.abs((await lossOf(objective, given.batch, theta)) - without) < 1e-4);
    const first = await at(1);
    assert.notEqual(first, await at(2));
    assert.equal(first, await at(1));
    assert.ok(Math.abs(first - without) > 1e-4);
  };
  await withObjective(given, adapter, true, work, 0.5);
});

test("training every weight on text keeps the vision side, under the names of the base", async (t) => {
  const { base } = await readCase("llava");
  const folder = temporaryFolder(t);
  const subject = await trainableModels.full(nodeFiles, base, {} as RunOptions, {
    given: null,
    loss: lossGraph(base.config, { maxTargets: 1, maxLength: 1, images: false }),
  });
  const { theta, saveWeights } = await subject.start();
  await saveWeights(
    nodeFiles,
    folder,
    theta.map((value) => value + 1),
  );
  const written = await openCheckpoint(nodeFiles, folder);
  assert.deepEqual([...written.tensors.keys()].sort(), [...base.checkpoint.tensors.keys()].sort());
  for (const [name, moved] of [
    ["language_model.model.norm.weight", 1],
    ["multi_modal_projector.linear_2.weight", 0],
    ["vision_tower.vision_model.encoder.layers.1.mlp.fc2.bias", 0],
  ] as const) {
    const [before, after] = await Promise.all([base.checkpoint, written].map((one) => readWeights(nodeFiles, one, name)));
    assert.equal(Number(after!.data[0]), Math.fround(Number(before!.data[0]) + moved), name);
  }
});

test("LLaVA's weights are found under the names of every release", async () => {
  const { base } = await readCase("llava");
  const graph = forwardGraph(base.config);
  const older = (path: string) => olderNames(base.config, path);
  const newest = [...storedNames(graph, base.checkpoint.tensors, older).keys()];
  assert.equal(newest.length, base.checkpoint.tensors.size);
  assert.equal(storedNames(graph, new Map(newest.map((name) => [name, 0])), older).size, 0);
  const between = newest.map((name) => name.replace("model.vision_tower.", "model.vision_tower.vision_model."));
  const found = storedNames(graph, new Map(between.map((name) => [name, 0])), older);
  assert.equal(found.get("model.vision_tower.pre_layrnorm.weight"), "model.vision_tower.vision_model.pre_layrnorm.weight");
  assert.equal(found.size, newest.filter((name) => name.startsWith("model.vision_tower.")).length);
  assert.deepEqual(older("model.language_model.layers.0.mlp.up_proj"), ["language_model.model.layers.0.mlp.up_proj"]);
});

test("an adapter under LLaVA's older module names acts as under the newer", async () => {
  const given = await readCase("llava");
  const { base, adapter } = given;
  const renamed = (path: string) => olderNames(base.config, path).at(-1)!;
  const older: Adapter = {
    ...adapter,
    modules: adapter.modules.map((module) => ({ ...module, path: renamed(module.path) })),
    tensors: new Map([...adapter.tensors].map(([path, factors]) => [renamed(path), factors])),
  };
  assert.ok(older.tensors.has("language_model.model.layers.1.mlp.down_proj"));
  assert.ok(older.tensors.has("multi_modal_projector.linear_2"));
  const decoder = await openDecoder({ ...base, openSession: openNodeSession, threads: 1 });
  await decoder.useAdapter(older);
  await agrees(decoder, given, 1, given.golden.adapter);
  await decoder.close();
});

test("images that do not fit the model or the tokens are refused", async () => {
  const { base, tokens, images } = await readCase("llava");
  const { feeds } = visionOf(base.config)!;
  const values = images.pixelValues.data as Float32Array;
  const fails = (pixelValues: Tensor, expected: RegExp) =>
    assert.throws(() => feeds(base.config, tokens, { pixelValues }), { code: "data/images", expected });
  fails(float32([12, 3, 8, 8], values), /3 channels of 16 × 16/);
  fails(float32([2, 3, 16, 16], values.slice(0, 2 * 768)), /2 images of 4 tokens each: 8 tokens 95/);
  const idefics = await readCase("idefics");
  const { imageAttentionMask: _, ...unseen } = idefics.images;
  assert.throws(() => visionOf(idefics.base.config)!.feeds(idefics.base.config, idefics.tokens, unseen), {
    code: "data/images",
    expected: /image attention mask \[2, 13, images\]/,
  });
});

test("configs of vision-language models: what is absent is Transformers' default, what is not built is refused", () => {
  const text = { model_type: "mistral", vocab_size: 64, hidden_size: 32, intermediate_size: 40, num_hidden_layers: 1 };
  const llava = decoderConfig({ model_type: "llava", text_config: { ...text, num_attention_heads: 8 } });
  const { perImage, width } = visionOf(llava)!.features(llava);
  assert.deepEqual([llava.vocabSize, llava.kvHeads, llava.tieWordEmbeddings, perImage, width], [64, 8, false, 24 * 24, 32]);
  const paths = modulesOf(forwardGraph(llava)).map(({ path }) => path);
  assert.ok(paths.includes("model.language_model.layers.0.self_attn.q_proj"));
  assert.ok(paths.includes("model.vision_tower.encoder.layers.23.mlp.fc2"));
  const refused = (config: object, subject: RegExp) =>
    assert.throws(() => decoderConfig({ model_type: "llava", ...config }), { code: /^model\//, subject });
  refused({ text_config: { model_type: "bloom" } }, /text_config\.model_type/);
  refused({ vision_config: { model_type: "pixtral" } }, /vision_config\.model_type/);
  refused({ vision_config: { model_type: "siglip_vision_model" } }, /vision_config: vision_use_head/);
  const bad = { model_type: "llava", text_config: text, vision_feature_layer: -26 };
  assert.throws(() => decoderConfig(bad), /vision_feature_layer contradicts/);
  const idefics = { model_type: "idefics", num_hidden_layers: 5, cross_layer_interval: 2 };
  assert.throws(() => decoderConfig(idefics), /cross_layer_interval contradicts/);
  const shuffle = { model_type: "idefics3", vision_config: { image_size: 28, patch_size: 4 }, scale_factor: 2 };
  assert.throws(() => decoderConfig(shuffle), /scale_factor contradicts/);
});

test("IDEFICS: an adapted output layer is split from the fused loss, and the added tokens stay behind its logits", async () => {
  const given = await readCase("idefics");
  const lora = loraConfig({ rank: 2 });
  // Options allow no adapter on the output layer; full fine-tuning takes it out of the loss in the same way.
  const modules = given.base.modules
    .filter(({ path }) => /q_proj$|^lm_head/.test(path))
    .map(({ path, inFeatures, outFeatures }) => ({ path, inFeatures, outFeatures, rank: 2, alpha: 8, scale: 4 }));
  const heads = modules.filter(({ path }) => path.startsWith("lm_head"));
  assert.deepEqual(
    heads.map(({ path }) => path),
    ["lm_head", "lm_head.additional_fc"],
  );
  const lossOf = async (some: typeof modules): Promise<{ loss: number; slopes: number[] }> => {
    const adapter: Adapter = { config: lora, modules: some, tensors: initAdapter(some, lora, 3) };
    let result = { loss: 0, slopes: [] as number[] };
    await withObjective(given, adapter, true, async (objective) => {
      const { loss, gradient } = await objective.lossAndGradient(given.batch, thetaOf(adapter), 1, KEY);
      const ofB = objective.entries.filter(({ key }) => /lm_head.*lora_B/.test(key));
      const slopes = ofB.map(({ offset, shape }) =>
        Math.max(...gradient.subarray(offset, offset + shape[0]! * shape[1]!).map(Math.abs)),
      );
      result = { loss, slopes };
    });
    return result;
  };
  const fused = await lossOf(modules.filter((module) => !heads.includes(module)));
  for (const some of [modules, modules.filter(({ path }) => path !== "lm_head")]) {
    const { loss, slopes } = await lossOf(some);
    assert.ok(Math.abs(loss - fused.loss) <= 1e-5 * fused.loss, `${loss} and ${fused.loss}`);
    assert.equal(slopes.length, some === modules ? 2 : 1);
    assert.ok(
      slopes.every((slope) => slope > 1e-3),
      slopes.join(", "),
    );
  }
});
