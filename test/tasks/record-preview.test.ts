// preview of data for other tasks than language modelling: records as they are read, counts, and what a person should look at.
// slow
import assert from "node:assert/strict";
import { readdir, rm } from "node:fs/promises";
import { test } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { type PreviewOptions, preview } from "../../src/index.ts";
import { jsonl, picture, taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixtures = "test/fixtures/tasks";

/** A base without its weights: they are not needed. */
async function withoutWeights(folder: string, modelType: "bert" | "vit" | "clip"): Promise<string> {
  const base = await taskBase(folder, modelType);
  for (const name of await readdir(base)) if (name.endsWith(".safetensors")) await rm(`${base}/${name}`);
  return base;
}

test("pairs of texts are shown with their special tokens and where they are cut", async (t) => {
  const base = await withoutWeights(temporaryFolder(t), "bert");
  const found = await preview({ base, data: `${fixtures}/texts.jsonl`, examples: 6, ids: true, task: "sequence-classification" });
  const { place, text, tokens, isCut, label, ids } = found.shown[5]!;
  assert.deepEqual([place, tokens, isCut, label], ["line 6", 24, true, "LABEL_2"]);
  assert.deepEqual(text, ["[CLS] the dog [SEP]", "a large bird and a small cat on the mat in the evening, from start to [SEP]"]);
  assert.equal(ids!.length, 24);
  assert.equal(found.shown[0]!.isCut, false);
  assert.equal(found.maxLength, 24);
  const { records, truncated, lengths, images, classes, tokens: all } = found.train;
  assert.deepEqual([records, truncated, images, all], [12, 2, null, 147]);
  assert.deepEqual([lengths!.shortest, lengths!.longest], [4, 24]);
  assert.deepEqual(
    classes!.map(({ count }) => count),
    [4, 4, 4],
  );
  assert.deepEqual(found.warnings.length, 2);
  assert.match(found.warnings[0]!, /2 of 12 texts are truncated at 24 tokens/);
});

test("images are shown with their size and what becomes of it; a split shows the classes that training then lacks", async (t) => {
  const base = await withoutWeights(temporaryFolder(t), "vit");
  const options = { base, data: `${fixtures}/images.jsonl`, task: "image-classification" } as const;
  const found = await preview(options);
  assert.deepEqual(found.shown[0]!.image, {
    path: `${fixtures}/images/0.png`,
    width: 23,
    height: 20,
    prepared: { tiles: 1, width: 16, height: 16 },
  });
  assert.equal(found.maxLength, null);
  assert.equal(found.shown[0]!.text, undefined);
  assert.deepEqual([found.train.images, found.train.tokens, found.train.lengths], [12, 0, null]);

  const split = await preview({ ...options, evalSplit: 0.25 });
  assert.deepEqual([split.train.records, split.evaluation!.records], [9, 3]);
  const lacking = split.train.classes!.filter(({ count }, i) => count === 0 && split.evaluation!.classes![i]!.count > 0);
  assert.ok(lacking.length > 0, "the seed's split has none");
  const names = lacking.map(({ label }) => label).join(", ");
  assert.ok(split.warnings.includes(`the evaluation has classes without a training record: ${names}`), split.warnings.join("\n"));
});

test("a dominant class, duplicates, contradicting labels and evaluation on training records are reported", async (t) => {
  const folder = temporaryFolder(t);
  const base = await withoutWeights(folder, "bert");
  const cats = Array.from({ length: 24 }, (_, i) => ({ text: `the cat sat ${"on ".repeat(i % 20)}`, label: "cat" }));
  const data = await jsonl(folder, "train.jsonl", [...cats, { text: "the cat sat ", label: "dog" }]);
  const evalData = await jsonl(folder, "eval.jsonl", [cats[3]!, { text: "the cat sat on on ", label: "dog" }]);
  const found = await preview({ base, data, evalData, task: "sequence-classification" });
  assert.deepEqual(found.duplicates, { train: 4, evaluation: 0, contradicting: 1, shared: 1, sameQuestion: 1 });
  const expected = [
    /fewer than 5 records of dog \(1\)/,
    /96\.0 % of the records are of cat/,
    /1 record was there before with another label/,
  ];
  for (const words of [...expected, /1 of 2 evaluation records are training records/]) {
    assert.ok(
      found.warnings.some((warning) => words.test(warning)),
      `${words} is not in ${found.warnings.join("\n")}`,
    );
  }
});

test("pairs of images and texts are shown with both", async (t) => {
  const base = await withoutWeights(temporaryFolder(t), "clip");
  const found = await preview({ base, data: `${fixtures}/pairs.jsonl`, examples: 1, task: "contrastive" });
  const [{ text, image, label }] = found.shown as [(typeof found.shown)[number]];
  assert.deepEqual(text, ["<|startoftext|>a photo of a cat <|endoftext|>"]);
  assert.equal(image!.path, `${fixtures}/images/0.png`);
  assert.equal(label, undefined);
  assert.deepEqual([found.train.images, found.train.classes], [10, null]);
  assert.deepEqual(found.warnings, []);
});

test("what a run would refuse is refused", async (t) => {
  const folder = temporaryFolder(t);
  const [bert, vit] = [await withoutWeights(folder, "bert"), await withoutWeights(folder, "vit")];
  const codeOf = (options: PreviewOptions) =>
    preview(options).then(
      () => "none",
      ({ code }: LowrankError) => code,
    );
  const two = [
    { text: "a", label: "x" },
    { text: "b", label: "y" },
  ];
  const data = await jsonl(folder, "two.jsonl", two);
  const other = await jsonl(folder, "other.jsonl", [{ text: "c", label: "z" }]);
  assert.equal(await codeOf({ base: bert, data }), "none");
  assert.equal(await codeOf({ base: bert, data, evalData: other }), "data/label");
  assert.equal(await codeOf({ base: bert, data: other }), "data/label");
  assert.equal(await codeOf({ base: bert, data, task: "causal-lm" }), "preview/option");
  const image = await picture(folder, "red", 0);
  const images = await jsonl(folder, "images.jsonl", [
    { image, label: 0 },
    { image: "images/none.png", label: 1 },
  ]);
  assert.equal(await codeOf({ base: vit, data: images }), "file/missing");
});
