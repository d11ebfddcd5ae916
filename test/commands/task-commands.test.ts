// What lowrank eval and lowrank preview print of other tasks than language modelling.
// slow
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { describe, it } from "node:test";
import { finetune } from "../../src/index.ts";
import { printed } from "../helpers/program.ts";
import { jsonl, taskBase, withoutHead } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixtures = "test/fixtures/tasks";
const twoClasses = ["cat", "dog"].map((label) => ({ text: `the ${label}`, label }));

async function textOf(status: number, ...args: string[]): Promise<string> {
  const result = await printed(...args);
  const text = `${result.stdout}${result.stderr}`;
  assert.equal(result.status, status, text);
  return text;
}

describe("lowrank eval", () => {
  it("of a classifier has base and adapter under each other, classes and confusions", async (t) => {
    const base = await taskBase(temporaryFolder(t), "vit");
    const args = ["eval", "--base", base, "--data", `${fixtures}/images.jsonl`];
    const text = await textOf(0, ...args, "--adapter", `${fixtures}/vit-adapter`);
    assert.match(
      text,
      /\nbase +2\.2104 +8\.3 % +0\.0308\nwith the adapter +0\.6648 +75\.0 % +0\.6933\n9 of 12 correct, with the adapter/,
    );
    assert.match(text, /\nLABEL_2 +0\.0000 +0\.0000 +0\.0000 +2\n/);
    assert.match(text, /\n {2}LABEL_2 for LABEL_3: 2\n/);
    const { base: score, adapter, task } = JSON.parse(await textOf(0, ...args, "--json"));
    assert.deepEqual([task, score.count, score.classes.length, adapter], ["image-classification", 12, 5, null]);
    assert.match(await textOf(2, ...args, "--generate"), /vit is not a language model here: it has the head image-classifier/);
  });

  it("says that a base has no head for classes that the adapter brings", async (t) => {
    const folder = temporaryFolder(t);
    const base = await taskBase(folder, "bert");
    const records = ["cat", "dog", "cat", "dog"].map((label, i) => ({ text: `the ${label} ${"on ".repeat(i)}`, label }));
    const data = await jsonl(folder, "train.jsonl", records);
    for await (const _ of finetune({ base, data, output: `${folder}/out`, steps: 1 }));
    const text = await textOf(0, "eval", "--base", base, "--data", data, "--adapter", `${folder}/out`);
    assert.match(text, /\nbase +— +— +—\nwith the adapter +\d\.\d{4} /);
    assert.match(text, /\nThe base has no head of its own for these classes\.\n/);

    // What the folder of a run that has not ended looks like.
    await rm(`${folder}/out/adapter_config.json`);
    const stopped = await textOf(2, "eval", "--base", base, "--data", data, "--adapter", `${folder}/out`);
    assert.match(stopped, /no adapter_config\.json[\s\S]*out\/checkpoint-1\./);
  });

  it("of a contrastive model has recall of both directions, and on classes the template", async (t) => {
    const base = await taskBase(temporaryFolder(t), "clip");
    const text = await textOf(0, "eval", "--base", base, "--data", `${fixtures}/pairs.jsonl`, "--batch-size", "12");
    assert.match(text, /\nbase +2\.5668\nThe loss is that of pairs among 12 \(--batch-size\)/);
    assert.match(text, /of 10, among 12 texts\n +recall@1 +recall@5 +recall@10\nbase +10\.0 % +50\.0 % +80\.0 %\n/);
    assert.match(text, /of 12, among 10 images\n.*\nbase +8\.3 % +41\.7 % +100\.0 %\n/);
    const shot = ["--template", "a photo of a {}", "--template", "the {} sat"];
    const zero = await textOf(0, "eval", "--base", base, "--data", `${fixtures}/named.jsonl`, ...shot);
    assert.match(zero, /zero-shot: each class as "a photo of a \{\}" and 1 more \(--template\)/);
  });
});

it("lowrank inspect shows the classes of an adapter, and how much of it is the head", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const data = await jsonl(folder, "train.jsonl", twoClasses);
  await textOf(0, "train", "--base", base, "--data", data, "--output", `${folder}/out`, "--steps", "1");
  const text = await textOf(0, "inspect", `${folder}/out`);
  assert.match(text, /\nclasses +2: cat, dog\n/);
  const { parameters, trainedInFull, modules, labels } = JSON.parse(await textOf(0, "inspect", `${folder}/out`, "--json"));
  const factors = modules.reduce((sum: number, module: { parameters: number }) => sum + module.parameters, 0);
  assert.deepEqual(labels, ["cat", "dog"]);
  assert.ok(trainedInFull > 0);
  assert.equal(factors + trainedInFull, parameters);
  assert.match(text, new RegExp(`\\ntrained in full +${trainedInFull} parameters`));
  // A base without a classifier has no classes, whatever its config.json counts.
  await withoutHead(base);
  const bare = await textOf(0, "inspect", base);
  assert.match(bare, /\nclassifier +none yet: training adds it\n/);
  assert.doesNotMatch(bare, /LABEL_|\nclassifier +\d/);
});

it("keys of images are not suggested as texts or classes", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const pairs = await jsonl(folder, "pairs.jsonl", [{ image: "1.png", text: "a cat" }]);
  assert.doesNotMatch(await textOf(2, "preview", "--base", base, "--data", pairs), /may be|perhaps/);
  const images = await jsonl(folder, "images.jsonl", [{ image: "1.png", kind: "cat" }]);
  assert.doesNotMatch(await textOf(2, "preview", "--base", base, "--data", images), /may be|perhaps/);
  const named = await jsonl(folder, "named.jsonl", [{ text: "a cat", kind: "cat" }]);
  assert.match(await textOf(2, "preview", "--base", base, "--data", named), /label may be "kind" here/);
});

it("a column that no record of the base's task has is refused, not left unread", async (t) => {
  const folder = temporaryFolder(t);
  const data = await jsonl(folder, "train.jsonl", twoClasses);
  const language = ["--base", "test/fixtures/tiny-llama", "--data", data, "--text-column", "text", "--label-column", "label"];
  const output = ["--output", `${folder}/out`];
  for (const args of [["preview"], ["eval"], ["train", ...output]]) {
    assert.match(
      await textOf(2, ...args, ...language),
      /labelColumn: [\s\S]*promptColumn, completionColumn[\s\S]*--task\): contrastive, image-classification, sequence-classification/,
    );
  }
  const bert = await taskBase(folder, "bert");
  assert.match(await textOf(2, "preview", "--base", bert, "--data", data, "--image-column", "text"), /Leave out imageColumn/);
  // Of a contrastive model the column of classes is that of a zero-shot evaluation.
  const zeroShot = ["--base", await taskBase(folder, "clip"), "--data", `${fixtures}/named.jsonl`, "--label-column", "label"];
  assert.match(await textOf(0, "eval", ...zeroShot), /zero-shot/);
});

it("an adapter larger than its base is shown in whole percent, and a single class is refused", async (t) => {
  const folder = temporaryFolder(t);
  const [base, data] = [await taskBase(folder, "bert"), await jsonl(folder, "train.jsonl", twoClasses)];
  const args = ["train", "--base", base, "--output", `${folder}/out`, "--steps", "1", "--rank", "600"];
  const alone = await jsonl(folder, "one.jsonl", [{ text: "the cat", label: "cat" }]);
  assert.match(await textOf(2, ...args, "--data", alone), /a folder for each; or check which column/);
  assert.match(await textOf(0, ...args, "--data", data), /^training [\d,]+ parameters \(13 modules\), \d,\d{3}% of /m);
});

it("lowrank init says how a classifier is trained", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const args = ["--data", `${fixtures}/texts.jsonl`, "--goal", "classification", "--file", `${folder}/lowrank.yaml`];
  assert.match(
    await textOf(2, "init", "--base", base, ...args),
    /language models alone[\s\S]*lowrank train --base .*bert --data /,
  );
});

it("an adapter of another architecture is reported as such, not as one of the same shapes", async (t) => {
  const folder = temporaryFolder(t);
  const [base, data] = [await taskBase(folder, "bert"), await jsonl(folder, "train.jsonl", twoClasses)];
  await textOf(0, "train", "--base", base, "--data", data, "--output", `${folder}/out`, "--steps", "1");
  const text = await textOf(2, "classify", "--base", await taskBase(folder, "vit"), "--adapter", `${folder}/out`, "1.png");
  assert.match(text, /a module that the model does not have/);
});

it("lowrank preview prints records as they are read, classes, lengths and warnings", async (t) => {
  const folder = temporaryFolder(t);
  const args = ["preview", "--base", await taskBase(folder, "bert"), "--data", `${fixtures}/texts.jsonl`];
  const text = await textOf(0, ...args, "--examples", "6");
  assert.match(
    text,
    /\nexample 6, line 6: 24 tokens, the rest is cut off\n {2}text 1: \[CLS\] the dog \[SEP\]\n {2}text 2: a large/,
  );
  assert.match(text, /\n {2}label: {2}LABEL_2\n/);
  assert.match(text, /\n {2}LABEL_0 +4 +33\.3 %\n/);
  assert.match(text, /\nlengths: 4 to 24 tokens/);
  assert.match(text, /\nwarning: .*2 of 12 texts are truncated at 24 tokens/);
  const vit = await textOf(0, "preview", "--base", await taskBase(folder, "vit"), "--data", `${fixtures}/images.jsonl`);
  assert.match(vit, /\n {2}image: {2}test\/fixtures\/tasks\/images\/0\.png, 23 × 20 → 16 × 16\n {2}label: {2}LABEL_0\n/);
  assert.doesNotMatch(vit, /token/);
});
