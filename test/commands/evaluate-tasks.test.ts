// evaluate on other tasks than language modelling: the numbers of Transformers, PEFT and scikit-learn (scripts/reference/tasks.py).
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { describe, it, test } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import {
  type ClassifierScore,
  type EvaluatedTask,
  type EvaluateOptions,
  type Evaluation,
  evaluate,
  finetune,
  reportRuns,
} from "../../src/index.ts";
import { collect, near, refused } from "../helpers/assert.ts";
import { jsonl, taskBase, withoutHead } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixtures = "test/fixtures/tasks";
const reference = JSON.parse(readFileSync(`${fixtures}/expected.json`, "utf8"));
async function evaluated<T extends Evaluation["task"]>(task: T, options: EvaluateOptions<T>) {
  const found = await evaluate({ threads: 1, ...options, task });
  assert.equal(found.task, task);
  return found;
}

interface Classified {
  loss: number;
  accuracy: number;
  macro_f1: number;
  confusion: number[][];
}

function sameClassification(found: ClassifierScore, expected: Classified, what: string): void {
  near(found.loss, expected.loss, 1e-5, `${what}, loss`);
  near(found.accuracy, expected.accuracy, 1e-9, `${what}, accuracy`);
  near(found.macroF1, expected.macro_f1, 1e-9, `${what}, macro F1`);
  const confusion = expected.confusion.map((row) => row.map(() => 0));
  for (const { expected: row, predicted, count } of found.confusions) confusion[row]![predicted] = count;
  assert.deepEqual(confusion, expected.confusion, what);
}

describe("classifiers of texts and of images", () => {
  for (const [name, data, task] of [
    ["bert", "texts", "sequence-classification"],
    ["vit", "images", "image-classification"],
  ] as const) {
    it(`${name}: loss, accuracy, macro F1 and confusions of the base and of an adapter with a head, in batches of any size`, async (t) => {
      const base = await taskBase(temporaryFolder(t), name);
      const options = { base, data: `${fixtures}/${data}.jsonl`, adapter: `${fixtures}/${name}-adapter` };
      for (const batchSize of [undefined, 5]) {
        const found = await evaluated(task, { ...options, batchSize });
        sameClassification(found.base!, reference[name].base, `${name}, base`);
        sameClassification(found.adapter!, reference[name].adapter, `${name}, adapter`);
        assert.equal(found.data.count, 12);
      }
      const alone = await evaluated(task, { ...options, adapter: undefined });
      sameClassification(alone.base!, reference[name].base, `${name}, alone`);
      assert.equal(alone.adapter, null);
    });
  }

  it("a base whose classes the adapter brings has no score of its own; other classes are refused by name", async (t) => {
    const folder = temporaryFolder(t);
    const base = await taskBase(folder, "bert");
    const records = ["cat", "dog", "cat", "dog"].map((label, i) => ({ text: `the ${label} sat ${"on ".repeat(i)}`, label }));
    const data = await jsonl(folder, "train.jsonl", records);
    const adapter = `${folder}/adapter`;
    for await (const _ of finetune({ base, data, output: adapter, steps: 20, batchSize: 4, learningRate: 1e-2 }));
    const found = await evaluated("sequence-classification", { base, data, adapter });
    assert.equal(found.base, null);
    assert.deepEqual(
      found.adapter!.classes.map(({ label, support }) => [label, support]),
      [
        ["cat", 2],
        ["dog", 2],
      ],
    );
    assert.equal(found.adapter!.accuracy, 1);
    const isRefused = (options: EvaluateOptions, code: string, got: RegExp) => refused(evaluate(options), code, { got });
    const other = await jsonl(folder, "other.jsonl", [...records, { text: "a bird", label: "bird" }]);
    await isRefused({ base, data: other, adapter }, "data/label", /^bird$/);
    await isRefused({ base, data, adapter, task: "contrastive" }, "evaluate/option", /^contrastive$/);
    for (const batchSize of [0, 2.5]) await isRefused({ base, data, batchSize }, "evaluate/option", /^(0|2\.5)$/);
    // The base's own classes have no such names.
    await isRefused({ base, data }, "data/label", /^cat$/);
  });

  it("a model that was never trained to classify is refused without an adapter that brings a head", async (t) => {
    const folder = temporaryFolder(t);
    const base = await taskBase(folder, "bert");
    await withoutHead(base);
    await assert.rejects(
      evaluate({ base, data: `${fixtures}/texts.jsonl` }),
      (error) => error instanceof LowrankError && error.code === "evaluate/no-head",
    );
    const found = await evaluated("sequence-classification", {
      base,
      data: `${fixtures}/texts.jsonl`,
      adapter: `${fixtures}/bert-adapter`,
    });
    assert.equal(found.base, null);
    sameClassification(found.adapter!, reference.bert.adapter, "adapter");
  });
});

test("a contrastive model: the loss, which batches change, and recall over all, with images of several texts", async (t) => {
  const base = await taskBase(temporaryFolder(t), "clip");
  const options = { base, data: `${fixtures}/pairs.jsonl`, adapter: `${fixtures}/clip-adapter` };
  const found = await evaluated("contrastive", { ...options, batchSize: 12 });
  const small = await evaluated("contrastive", { ...options, batchSize: 5 });
  assert.deepEqual([found.batchSize, small.batchSize], [12, 5]);
  for (const side of ["base", "adapter"] as const) {
    const expected = reference.clip[side];
    near(found[side]!.loss, expected.loss, 1e-5, `${side}, loss`);
    near(small[side]!.loss, expected.loss_5, 1e-5, `${side}, loss of batches of 5`);
    for (const score of [found[side]!, small[side]!]) {
      assert.deepEqual([score.images, score.texts], [10, 12]);
      for (const k of [1, 5, 10] as const) {
        near(score.imageToText[k], expected.image_to_text[k], 1e-9, `${side}, images, recall@${k}`);
        near(score.textToImage[k], expected.text_to_image[k], 1e-9, `${side}, texts, recall@${k}`);
      }
    }
  }
});

test("a contrastive model classifies images by a text for each class", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "clip");
  const options = { base, data: `${fixtures}/named.jsonl`, adapter: `${fixtures}/clip-adapter` };
  const found = await evaluated("zero-shot", options);
  assert.deepEqual(found.template, [reference.template]);
  assert.deepEqual(
    found.data.classes!.map(({ label, count }) => [label, count]),
    ["cat", "dog", "large bird"].map((label) => [label, 4]),
  );
  for (const side of ["base", "adapter"] as const) {
    sameClassification(found[side]!, reference.clip[side].zero_shot, side);
    assert.deepEqual(
      found[side]!.classes.map(({ support }) => support),
      [4, 4, 4],
    );
  }
  const other = await evaluated("zero-shot", { ...options, adapter: undefined, template: "the {} sat" });
  assert.ok(Math.abs(other.base.loss - found.base.loss) > 1e-4);

  // Pairs are pairs, unless they are meant to have classes.
  const pairs = `${fixtures}/pairs.jsonl`;
  assert.equal((await evaluate<EvaluatedTask>({ base, data: pairs })).task, "contrastive");
  const codeOf = (given: EvaluateOptions) =>
    evaluate(given).then(
      () => "none",
      ({ code }: LowrankError) => code,
    );
  assert.equal(await codeOf({ base, data: pairs, template: "{}" }), "data/keys");
  assert.equal(await codeOf({ base, data: `${fixtures}/named.jsonl`, task: "contrastive" }), "data/keys");
  assert.equal(await codeOf({ base, data: `${fixtures}/named.jsonl`, template: "a photo" }), "predict/template");
  const bert = await taskBase(folder, "bert");
  assert.equal(await codeOf({ base: bert, data: `${fixtures}/texts.jsonl`, template: "{}" }), "evaluate/option");
});

describe("a run of another task", () => {
  it("has in its evaluations the loss and the accuracy that evaluate gives, and a report without words of language models", async (t) => {
    const folder = temporaryFolder(t);
    const base = await taskBase(folder, "vit");
    const data = `${fixtures}/images.jsonl`;
    const output = `${folder}/out`;
    const options = { base, data, evalData: data, output, steps: 6, batchSize: 5, learningRate: 1e-2, threads: 1 };
    const events = await collect(finetune(options));
    const last = events.findLast((event) => event.type === "eval")!;
    const { adapter } = await evaluated("image-classification", { base, data, adapter: output });
    near(adapter!.loss, last.loss, 1e-5, "loss");
    near(adapter!.accuracy, last.accuracy!, 1e-9, "accuracy");
    assert.ok(last.accuracy! > 0.4 && !("perplexity" in last));
    const examples = events.flatMap((event) => (event.type === "step" ? event.examples! : []));
    assert.deepEqual(examples.sort(), [2, 2, 5, 5, 5, 5], "two epochs of 12");

    const page = await readFile(await reportRuns({ folders: [output] }), "utf8");
    const text = page.slice(page.indexOf("<main>"), page.indexOf("</main>"));
    assert.match(text, /examples\/s/);
    assert.match(text, /12 examples, 12 images, 5 classes/);
    assert.match(text, /<th scope="col">accuracy<\/th>/);
    assert.doesNotMatch(text, /perplexity|token/i);
  });

  it("that compares images and texts has the loss of evaluate at the same size of batches, and no accuracy", async (t) => {
    const folder = temporaryFolder(t);
    const base = await taskBase(folder, "clip");
    const data = `${fixtures}/pairs.jsonl`;
    const options = { base, data, evalData: data, output: `${folder}/out`, steps: 2, batchSize: 5, threads: 1 };
    const events = await collect(finetune(options));
    const { adapter } = await evaluated("contrastive", { base, data, adapter: `${folder}/out`, batchSize: 5 });
    const last = events.findLast((event) => event.type === "eval")!;
    near(adapter!.loss, last.loss, 1e-5, "loss");
    assert.deepEqual(Object.keys(last).sort(), ["loss", "step", "type"]);
  });
});
