// Classifiers and embedders against Transformers' numbers (scripts/reference/predict.py) and the goldens; adapters switched; refusals.
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { type TestContext, test } from "node:test";
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { readHeader, readTensor, writeSafetensors } from "../../src/formats/safetensors.ts";
import { readImage } from "../../src/images/image.ts";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { decodeImage } from "../../src/platform/node/images.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openClassifier } from "../../src/predict/classifier.ts";
import { openEmbedder } from "../../src/predict/embedder.ts";
import { openTaskModel } from "../../src/predict/task-model.ts";
import type { Classification, Classifier, ClassifierInput, ClassifyOptions } from "../../src/predict/types.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { int32, type Tensor } from "../../src/tensor.ts";
import { near, refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { decoderConfig } from "../helpers/tiny-decoder.ts";
import { imageFile, tinyTask } from "../helpers/tiny-tasks.ts";

type Rows = number[][];
interface Expected {
  images: string[];
  texts: (string | [string, string])[];
  labels: string[];
  templates: string[];
  bert: Record<"base" | "adapter", Rows>;
  vit: Record<"base" | "adapter", Rows>;
  clip: Record<"base" | "adapter", { texts: Rows; images: Rows; zero_shot: Record<"1" | "2", Rows> }>;
}
const expected: Expected = JSON.parse(readFileSync(`${fixtures}/predict/expected.json`, "utf8"));
const images = expected.images.map(imageFile);
const texts = expected.texts.map((one) => (typeof one === "string" ? one : { text: one[0], textPair: one[1] }));

const host = { files: nodeFiles, openSession: openNodeSession, decodeImage };
/** Opens sessions and counts them. */
function counting() {
  const opened = { count: 0 };
  const openSession: OpenSession = (model, options) => {
    opened.count++;
    return openNodeSession(model, options);
  };
  return { opened, openSession };
}

/** Probabilities in the order of the classes. */
const inOrder = ({ scores }: Classification, labels: readonly string[]) =>
  labels.map((label) => scores.find((score) => score.label === label)!.probability);

function checkAll(found: Classification[], labels: readonly string[], want: Rows, what: string) {
  assert.equal(found.length, want.length);
  for (const [i, one] of found.entries()) {
    near(inOrder(one, labels), want[i]!, 2e-5, `${what} ${i}`);
    assert.deepEqual(
      one.scores.map(({ probability }) => probability),
      one.scores.map(({ probability }) => probability).sort((a, b) => b - a),
    );
  }
}

const code = async (work: Promise<unknown>): Promise<string> => (await refused(work)).code;

for (const [name, inputs] of [
  ["bert", texts],
  ["vit", images],
] as const) {
  test(`${name}: the classes of every input, with adapters switched on one opening`, async (t) => {
    const { base: folder, adapter: adapterFolder } = await tinyTask(t, name);
    const base = await openBase(nodeFiles, folder);
    const adapter = await readAdapter(nodeFiles, adapterFolder);
    const { labels } = base.config;
    const { opened, openSession } = counting();
    const classifier = await openClassifier(base, { ...host, openSession, adapter });
    t.after(() => classifier.close());
    checkAll(await classifier.classify(inputs), labels, expected[name].adapter, `${name} adapter`);
    await classifier.useAdapter(null);
    checkAll(await classifier.classify(inputs), labels, expected[name].base, `${name} base`);
    await classifier.useAdapter(adapter);
    checkAll(await classifier.classify(inputs), labels, expected[name].adapter, `${name} adapter again`);
    assert.equal(opened.count, 1);
    assert.deepEqual(classifier.labels(), labels);
    const [first] = await classifier.classify([...inputs].slice(0, 1), { top: 2 });
    assert.equal(first!.scores.length, 2);
    assert.deepEqual(await classifier.classify([]), []);
  });
}

test("a text that is too long is truncated, with a note", async (t) => {
  const { base } = await tinyTask(t, "bert");
  const classifier = await openClassifier(await openBase(nodeFiles, base), host);
  t.after(() => classifier.close());
  const found = await classifier.classify(texts);
  assert.deepEqual(
    found.map(({ cut }) => cut),
    [false, true, false, false, true, false],
  );
});

test("many texts of all lengths come back in their order", async (t) => {
  const { base } = await tinyTask(t, "bert");
  const classifier = await openClassifier(await openBase(nodeFiles, base), host);
  t.after(() => classifier.close());
  const many = Array.from({ length: 100 }, (_, i) => texts[(i * 5) % texts.length]!);
  const found = await classifier.classify(many);
  const labels = classifier.labels();
  for (const [i, one] of found.entries())
    near(inOrder(one, labels), expected.bert.base[(i * 5) % texts.length]!, 2e-5, String(i));
});

test("an image in memory is the image of its file", async (t) => {
  const { base } = await tinyTask(t, "vit");
  const classifier = await openClassifier(await openBase(nodeFiles, base), host);
  t.after(() => classifier.close());
  const image = await readImage(nodeFiles, decodeImage, images[0]!);
  const [inMemory, fromFile] = await classifier.classify([image, images[0]!]);
  assert.deepEqual(inMemory, fromFile);
});

test("clip: unit vectors of texts and of images, each tower opened when it is asked for", async (t) => {
  const { base: folder, adapter: adapterFolder } = await tinyTask(t, "clip");
  const base = await openBase(nodeFiles, folder);
  const { opened, openSession } = counting();
  const embedder = await openEmbedder(base, { ...host, openSession });
  t.after(() => embedder.close());
  const plain = expected.texts.filter((one) => typeof one === "string");
  for (const kind of ["base", "adapter", "base"] as const) {
    await embedder.useAdapter(kind === "base" ? null : await readAdapter(nodeFiles, adapterFolder));
    for (const [i, vector] of (await embedder.embedTexts(plain)).entries()) {
      near(vector, expected.clip[kind].texts[i]!, 2e-5, `${kind} text ${i}`);
    }
    if (opened.count === 1) assert.equal(kind, "base");
    for (const [i, vector] of (await embedder.embedImages(images)).entries()) {
      near(vector, expected.clip[kind].images[i]!, 2e-5, `${kind} image ${i}`);
    }
  }
  assert.equal(opened.count, 2, "each tower once, with room for adapters");
  assert.deepEqual([await embedder.embedTexts([]), await embedder.embedImages([])], [[], []]);
});

test("a tower that is not asked for is not opened, and needs no files", async (t) => {
  const { base } = await tinyTask(t, "clip");
  await rm(`${base}/preprocessor_config.json`);
  const { opened, openSession } = counting();
  const embedder = await openEmbedder(await openBase(nodeFiles, base), { ...host, openSession });
  t.after(() => embedder.close());
  await embedder.embedTexts(["a cat"]);
  assert.equal(opened.count, 1);
  assert.match(await code(embedder.embedImages(images)), /^image\//);
});

test("zero-shot: questions that are asked at once are answered in turn", async (t) => {
  const classifier = await openClassifier(await openBase(nodeFiles, (await tinyTask(t, "clip")).base), host);
  t.after(() => classifier.close());
  const questions = [labelsOf("cat", "dog"), labelsOf("bird", "film"), labelsOf("cat", "film", "dog")];
  const alone: Classification[][] = [];
  for (const question of questions) alone.push(await classifier.classify(images, question));
  assert.deepEqual(await Promise.all(questions.map((question) => classifier.classify(images, question))), alone);
});

const labelsOf = (...labels: string[]) => ({ labels });

test("zero-shot: the nearest of the labels' texts, with one template and with the mean of several", async (t) => {
  const { base: folder, adapter: adapterFolder } = await tinyTask(t, "clip");
  const { opened, openSession } = counting();
  const classifier = await openClassifier(await openBase(nodeFiles, folder), { ...host, openSession });
  t.after(() => classifier.close());
  const { labels, templates } = expected;
  for (const kind of ["base", "adapter"] as const) {
    if (kind === "adapter") await classifier.useAdapter(await readAdapter(nodeFiles, adapterFolder));
    const { zero_shot } = expected.clip[kind];
    checkAll(await classifier.classify(images, { labels }), labels, zero_shot["1"], `${kind} default`);
    checkAll(await classifier.classify(images, { labels, template: templates[0] }), labels, zero_shot["1"], `${kind} one`);
    checkAll(await classifier.classify(images, { labels, template: templates }), labels, zero_shot["2"], `${kind} two`);
  }
  assert.equal(opened.count, 3, "two towers with room for adapters, and the products");
  assert.deepEqual(classifier.labels(), []);
});

/** Feeds of a golden case under our names. */
async function golden(io: string) {
  const { tensors } = await readHeader(nodeFiles, io);
  const read = async (name: string): Promise<Tensor> => readTensor(nodeFiles, io, tensors.get(name)!);
  const names = {
    input_ids: "inputIds",
    attention_mask: "attentionMask",
    token_type_ids: "tokenTypeIds",
    pixel_values: "pixelValues",
  };
  const feeds: Record<string, Tensor> = {};
  for (const [theirs, ours] of Object.entries(names)) {
    if (!tensors.has(theirs)) continue;
    const given = await read(theirs);
    feeds[ours] = given.dtype === "int64" ? int32(given.shape, Array.from(given.data as BigInt64Array, Number)) : given;
  }
  return { feeds, output: async (name: string) => toFloat32(await read(name)) };
}

for (const [name, outputs] of [
  ["bert", { logits: "logits" }],
  ["vit", { logits: "logits" }],
  ["clip", { imageEmbeds: "image_embeds", textEmbeds: "text_embeds" }],
] as const) {
  test(`${name}: the golden outputs of a batch, of the base and of the adapter`, async (t) => {
    const { base: folder, adapter, io } = await tinyTask(t, name);
    const base = await openBase(nodeFiles, folder);
    const model = await openTaskModel(base, host);
    t.after(() => model.close());
    const { feeds, output } = await golden(io);
    for (const kind of ["base", "adapter"]) {
      await model.useAdapter(kind === "base" ? null : await readAdapter(nodeFiles, adapter));
      for (const [ours, theirs] of Object.entries(outputs)) {
        near(await model.run(ours, feeds), await output(`${theirs}_${kind}`), 2e-5, `${ours} ${kind}`);
      }
    }
  });
}

/** bert with this adapter's head widened to other classes. */
const withClasses = (adapter: Adapter, labels: string[]): Adapter => ({
  ...adapter,
  labels,
  saved: new Map([
    ["classifier.weight", { shape: [labels.length, 32], data: new Float32Array(labels.length * 32) }],
    ["classifier.bias", { shape: [labels.length], data: Float32Array.from(labels, (_, i) => i) }],
  ]),
});

test("adapters with other classes: their labels count, and going back gives the numbers of before", async (t) => {
  const { base: folder, adapter: adapterFolder } = await tinyTask(t, "bert");
  const base = await openBase(nodeFiles, folder);
  const adapter = await readAdapter(nodeFiles, adapterFolder);
  const { opened, openSession } = counting();
  const classifier = await openClassifier(base, { ...host, openSession, adapter: withClasses(adapter, ["a", "b", "c", "d"]) });
  t.after(() => classifier.close());
  const [wide] = await classifier.classify(["I love it"]);
  assert.deepEqual(
    wide!.scores.map(({ label }) => label),
    ["d", "c", "b", "a"],
  );
  near([wide!.scores[0]!.probability / wide!.scores[1]!.probability], [Math.E], 2e-5, "the biases alone");
  await classifier.useAdapter(withClasses(adapter, ["e", "f", "g", "h"]));
  assert.equal((await classifier.classify(["I love it"]))[0]!.scores[0]!.label, "h");
  assert.equal(opened.count, 1, "a head of the same size opens nothing");
  await classifier.useAdapter(adapter);
  checkAll(await classifier.classify(texts), classifier.labels(), expected.bert.adapter, "back");
  assert.equal(opened.count, 2);
});

test("an adapter that does not fit is refused, and the one before stays", async (t) => {
  const { base: folder, adapter: adapterFolder } = await tinyTask(t, "bert");
  const vit = await tinyTask(t, "vit");
  const classifier = await openClassifier(await openBase(nodeFiles, folder), {
    ...host,
    adapter: await readAdapter(nodeFiles, adapterFolder),
  });
  t.after(() => classifier.close());
  assert.match(await code(classifier.useAdapter(await readAdapter(nodeFiles, vit.adapter))), /^adapter\//);
  const other = { ...(await readAdapter(nodeFiles, adapterFolder)), baseFingerprint: "3:0000000000000000" };
  assert.equal(await code(classifier.useAdapter(other)), "adapter/other-base");
  checkAll(await classifier.classify(texts), classifier.labels(), expected.bert.adapter, "the one before");
});

/** The tiny bert without its classifier, as it is before any classification is trained. */
async function headless(t: TestContext) {
  const made = await tinyTask(t, "bert");
  const config = JSON.parse(await readFile(`${made.base}/config.json`, "utf8"));
  const whole = await openCheckpoint(nodeFiles, made.base);
  const names = [...whole.tensors.keys()].filter((name) => !name.startsWith("classifier."));
  const sources = await Promise.all(
    names.map(async (name) => {
      const { dtype, shape, data } = await readWeights(nodeFiles, whole, name);
      return { name: name.replace(/^bert\./, ""), dtype, shape, data: () => bytesOf(data) };
    }),
  );
  await writeSafetensors(nodeFiles, `${made.base}/model.safetensors`, sources, { format: "pt" });
  await writeFile(`${made.base}/config.json`, JSON.stringify({ ...config, architectures: ["BertModel"] }));
  return made;
}

test("a base without a classifier classifies with an adapter that brings one, and fails without", async (t) => {
  const { base: folder, adapter: adapterFolder } = await headless(t);
  const base = await openBase(nodeFiles, folder);
  assert.equal(await code(openClassifier(base, host)), "predict/no-head");
  const adapter = await readAdapter(nodeFiles, adapterFolder);
  const classifier = await openClassifier(base, { ...host, adapter });
  t.after(() => classifier.close());
  checkAll(await classifier.classify(texts), classifier.labels(), expected.bert.adapter, "with its head");
  assert.equal(await code(classifier.useAdapter(null)), "predict/no-head");
  checkAll(await classifier.classify(texts), classifier.labels(), expected.bert.adapter, "still");
});

test("models that serve something else are refused with what serves them", async (t) => {
  const folder = "test/fixtures/tiny-llama";
  const llama = await openBase(nodeFiles, folder);
  const next = async (work: Promise<unknown>) => (await refused(work, "predict/task")).next!;
  assert.match(await next(openClassifier(llama, host)), /--task sequence-classification.*lowrank generate/);
  assert.match(await next(openEmbedder(llama, { ...host, task: "causal-lm" })), /lowrank generate/);
  const { base } = await tinyTask(t, "vit");
  assert.match(await next(openEmbedder(await openBase(nodeFiles, base), host)), /lowrank classify/);
  assert.throws(() => decoderConfig({ model_type: "bert" }), { next: /lowrank classify/ });
  assert.throws(() => decoderConfig({ model_type: "clip" }), { next: /lowrank classify.*lowrank embed/ });
});

test("inputs and options that cannot be are refused by name", async (t) => {
  const open = async (name: "bert" | "vit" | "clip"): Promise<Classifier> => {
    const classifier = await openClassifier(await openBase(nodeFiles, (await tinyTask(t, name)).base), host);
    t.after(() => classifier.close());
    return classifier;
  };
  const [bert, vit, clip] = await Promise.all([open("bert"), open("vit"), open("clip")]);
  const refusal = (model: Classifier, input: ClassifierInput, options?: ClassifyOptions) =>
    code(model.classify([input], options));
  const image = images[0]!;
  assert.equal(await refusal(bert, ""), "predict/empty-text");
  assert.equal(await refusal(bert, " \n"), "predict/empty-text");
  assert.equal(await refusal(bert, await readImage(nodeFiles, decodeImage, image)), "predict/input");
  assert.equal(await refusal(bert, "a cat", { labels: ["a", "b"] }), "predict/labels");
  assert.equal(await refusal(bert, "a cat", { template: "{}" }), "predict/labels");
  assert.equal(await refusal(bert, "a cat", { top: 0 }), "predict/option");
  assert.equal(await refusal(bert, "a cat", { top: 1.5 }), "predict/option");
  assert.equal(await refusal(vit, { text: "a cat" }), "predict/input");
  assert.equal(await refusal(vit, imageFile("none.png")), "file/missing");
  assert.equal(await refusal(vit, imageFile("../../predict/expected.json")), "image/format");
  assert.equal(await refusal(clip, image), "predict/labels");
  for (const labels of [[], ["cat"], ["cat", "cat"], ["cat", " "], Array.from({ length: 40_000 }, (_, i) => `label ${i}`)]) {
    assert.equal(await refusal(clip, image, { labels }), "predict/labels", labels.slice(0, 3).join());
  }
  const labels = ["cat", "dog"];
  for (const template of ["a photo", [], ["{}", "none"], Array<string>(1001).fill("{}")]) {
    assert.equal(await refusal(clip, image, { labels, template }), "predict/template", String(template).slice(0, 20));
  }
  assert.equal((await clip.classify([image], { labels: ["cat", "$&"] })).length, 1);
});

test("an image that is missing far behind is found when its batch comes, and the classifier goes on", async (t) => {
  const classifier = await openClassifier(await openBase(nodeFiles, (await tinyTask(t, "vit")).base), host);
  t.after(() => classifier.close());
  const many = Array.from({ length: 40 }, (_, i) => (i === 20 ? imageFile("none.png") : images[i % images.length]!));
  assert.equal(await code(classifier.classify(many)), "file/missing");
  checkAll(await classifier.classify(images), classifier.labels(), expected.vit.base, "after");
});

test("weights that are no numbers give no probabilities", async (t) => {
  const { base: folder, adapter: adapterFolder } = await tinyTask(t, "bert");
  const adapter = withClasses(await readAdapter(nodeFiles, adapterFolder), ["a", "b"]);
  adapter.saved!.get("classifier.bias")!.data.fill(Number.NaN);
  const classifier = await openClassifier(await openBase(nodeFiles, folder), { ...host, adapter });
  t.after(() => classifier.close());
  assert.equal(await code(classifier.classify(["a cat"])), "predict/not-finite");
});

test("a tokenizer of another model is refused before the engine meets its ids", async (t) => {
  const { base } = await tinyTask(t, "clip");
  await cp("test/fixtures/tiny-llama/tokenizer.json", `${base}/tokenizer.json`);
  await rm(`${base}/tokenizer_config.json`);
  const embedder = await openEmbedder(await openBase(nodeFiles, base), host);
  t.after(() => embedder.close());
  assert.equal(await code(embedder.embedTexts(["a photo of a cat, zzz"])), "predict/vocabulary");
});
