// Training for other tasks than language modelling, from files of records to an adapter that names its classes.
// slow
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { finetune } from "../../src/index.ts";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { FinetuneOptions } from "../../src/train/options.ts";
import { collect, only, refused } from "../helpers/assert.ts";
import { png } from "../helpers/png.ts";
import { type Colour, colours, jsonl, picture, taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const names = Object.keys(colours) as Colour[];

const run = (options: FinetuneOptions): Promise<FinetuneEvent[]> => collect(finetune(options));

/** Sentences whose class is the animal in them. */
const sentences = Array.from({ length: 24 }, (_, i) => {
  const animal = ["cat", "dog", "bird", "film"][i % 4]!;
  return { text: `${["a", "the", "this", "an"][i % 3]} ${animal} ${["sat", "is small", "is large"][i % 3]}`, label: animal };
});

test("a text classifier learns classes that its base does not have, and the adapter names them", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const data = await jsonl(folder, "train.jsonl", sentences);
  const output = `${folder}/out`;
  const events = await run({ base, data, output, epochs: 20, batchSize: 8, learningRate: 5e-3, evalSplit: 0.25 });
  const [prepared] = only(events, "prepared");
  assert.deepEqual(
    prepared!.train.classes!.map(({ label }) => label),
    ["bird", "cat", "dog", "film"],
  );
  assert.equal(
    prepared!.train.classes!.reduce((sum, { count }) => sum + count, 0),
    18,
  );
  const losses = only(events, "eval").map(({ loss }) => loss);
  assert.ok(losses[0]! > 1 && losses.at(-1)! < losses[0]! / 2, `evaluation loss ${losses}`);
  const adapter = await readAdapter(nodeFiles, output);
  assert.deepEqual(adapter.labels, ["bird", "cat", "dog", "film"]);
  assert.deepEqual(adapter.saved!.get("classifier.weight")!.shape, [4, 32]);
  assert.equal(adapter.config.taskType, "SEQ_CLS");
  assert.equal(JSON.parse(await readFile(`${output}/run.json`, "utf8")).prompts, undefined);

  // What is trained on goes on with the same classes, and knows no others.
  const more = await run({ base, data, adapter: output, output: `${folder}/more`, steps: 1 });
  assert.ok(only(more, "step")[0]!.loss < losses[0]!);
  const other = await jsonl(folder, "other.jsonl", [...sentences, { text: "a mat", label: "mat" }]);
  const error = await refused(run({ base, data: other, adapter: output, output: `${folder}/third`, steps: 1 }));
  assert.equal(error.code, "data/label");
  assert.match(error.subject!, /other\.jsonl, line 25/);
  assert.equal(error.got, "mat");
});

test("full fine-tuning on new classes writes a classifier of them", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const data = await jsonl(folder, "train.jsonl", sentences);
  const output = `${folder}/out`;
  const events = await run({ base, data, output, method: "full", epochs: 20, batchSize: 8, learningRate: 3e-3 });
  const losses = only(events, "step").map(({ loss }) => loss);
  assert.ok(losses.at(-1)! < losses[0]! / 3, `loss ${losses[0]} → ${losses.at(-1)}`);
  const { config, checkpoint } = await openBase(nodeFiles, output);
  assert.deepEqual([config.labels, config.uninitializedHead], [["bird", "cat", "dog", "film"], null]);
  assert.deepEqual(checkpoint.tensors.get("classifier.weight")!.shape, [4, 32]);

  // It goes on from there with the head that it has.
  const more = await run({ base: output, data, output: `${folder}/more`, method: "full", steps: 1 });
  assert.ok(only(more, "step")[0]!.loss < losses[0]! / 2);
});

test("the order of the texts of a pair matters", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const words = ["cat", "dog", "bird", "film"];
  const pairs = words.flatMap((a) => words.map((b) => ({ sentence1: `a ${a}`, sentence2: `a ${b}`, label: a < b })));
  const data = await jsonl(folder, "pairs.jsonl", pairs);
  const events = await run({ base, data, output: `${folder}/out`, epochs: 60, batchSize: 16, learningRate: 1e-2 });
  assert.deepEqual(
    only(events, "prepared")[0]!.train.classes!.map(({ label, count }) => [label, count]),
    [
      ["false", 10],
      ["true", 6],
    ],
  );
  assert.ok(only(events, "step").at(-1)!.loss < 0.2);
});

test("labels that are numbers below the base's classes are its classes", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const numbered = sentences.map(({ text, label }) => ({ text, label: label === "cat" ? 2 : 0 }));
  const data = await jsonl(folder, "train.jsonl", numbered);
  const events = await run({ base, data, output: `${folder}/out`, steps: 1 });
  assert.deepEqual(
    only(events, "prepared")[0]!.train.classes!.map(({ label, count }) => [label, count]),
    [
      ["LABEL_0", 18],
      ["LABEL_1", 0],
      ["LABEL_2", 6],
    ],
  );
});

async function pictures(folder: string, each: number) {
  const records: { image: string; label: Colour; text: string }[] = [];
  for (let i = 0; i < each; i++) {
    for (const label of names) records.push({ image: await picture(folder, label, i), label, text: `a ${label}` });
  }
  return records;
}

test("an image classifier learns colours; image paths are relative to the data file", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "vit");
  const records = (await pictures(folder, 4)).map(({ image, label }) => ({ image, label }));
  const data = await jsonl(folder, "train.jsonl", records);
  const options = { base, data, output: `${folder}/out`, epochs: 15, batchSize: 6, learningRate: 1e-2 } as const;
  const events = await run(options);
  const { train } = only(events, "prepared")[0]!;
  assert.equal(train.images, 12);
  assert.deepEqual(
    train.classes!.map(({ label, count }) => [label, count]),
    [
      ["blue", 4],
      ["green", 4],
      ["red", 4],
    ],
  );
  const losses = only(events, "step").map(({ loss }) => loss);
  assert.ok(losses.at(-1)! < 0.3 && losses[0]! > 0.8, `loss ${losses[0]} → ${losses.at(-1)}`);

  // The same seed gives the same bits, read from memory or from files.
  const again = await run({ ...options, output: `${folder}/again` });
  assert.deepEqual(
    only(again, "step").map(({ loss }) => loss),
    losses,
  );
});

test("a contrastive model learns which text belongs to which image", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "clip");
  const records = (await pictures(folder, 4)).map(({ image, text }) => ({ image, text }));
  const data = await jsonl(folder, "train.jsonl", records);
  const options = { base, data, output: `${folder}/out`, epochs: 30, batchSize: 3, learningRate: 1e-2 } as const;
  const events = await run({ ...options, task: "contrastive" });
  const losses = only(events, "step").map(({ loss }) => loss);
  const mean = (part: number[]) => part.reduce((sum, loss) => sum + loss, 0) / part.length;
  assert.ok(
    mean(losses.slice(-10)) < mean(losses.slice(0, 10)) - 0.2,
    `loss ${mean(losses.slice(0, 10))} → ${mean(losses.slice(-10))}`,
  );
  assert.equal(only(events, "prepared")[0]!.train.images, 12);
});

test("an image of another size than the model reads is refused before anything is trained, with its record", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "vit");
  const processor = JSON.parse(await readFile(`${base}/preprocessor_config.json`, "utf8"));
  await writeFile(`${base}/preprocessor_config.json`, JSON.stringify({ ...processor, do_resize: false }));
  const solid = (side: number) => png({ width: side, height: side }, Array(side).fill(new Uint8Array(3 * side)));
  await writeFile(`${folder}/right.png`, solid(16));
  await writeFile(`${folder}/wrong.png`, solid(12));
  const data = await jsonl(folder, "train.jsonl", [
    ...["a", "b"].map((label) => ({ image: "right.png", label })),
    { image: "wrong.png", label: "a" },
  ]);
  const error = await refused(run({ base, data, output: `${folder}/out`, steps: 1 }));
  assert.equal(error.code, "image/model-size");
  assert.match(error.subject!, /train\.jsonl, line 3 \(.*wrong\.png\)/);
  assert.match(error.expected!, /16 × 16/);
  assert.match(error.got!, /12 × 12/);
  await assert.rejects(readFile(`${folder}/out/run.json`), { code: "ENOENT" });
});

test("what cannot be learnt from is refused by name before anything is trained", async (t) => {
  const folder = temporaryFolder(t);
  const [bert, vit, clip] = [await taskBase(folder, "bert"), await taskBase(folder, "vit"), await taskBase(folder, "clip")];
  const good = await jsonl(folder, "good.jsonl", sentences);
  const output = `${folder}/out`;
  const file = (name: string, record: object) => jsonl(folder, name, [sentences[0]!, record]);
  const cases: [string, FinetuneOptions, string, RegExp][] = [
    ["another task", { base: bert, data: good, output, task: "contrastive" }, "train/option", /task/],
    ["packing", { base: bert, data: good, output, packing: true }, "train/option", /packing/],
    ["a choice of tokens", { base: bert, data: good, output, trainOn: "all" }, "train/option", /trainOn/],
    ["one class", { base: bert, data: await jsonl(folder, "one.jsonl", [sentences[0]!]), output }, "data/label", /one\.jsonl/],
    ["pairs alone", { base: clip, data: good, output, batchSize: 1 }, "train/option", /batchSize/],
    [
      "no class",
      { base: bert, data: await file("none.jsonl", { text: "a", label: null }), output },
      "data/value",
      /none.jsonl, line 2/,
    ],
    ["a list of classes", { base: bert, data: await file("l.jsonl", { text: "a", label: [1] }), output }, "data/value", /line 2/],
    [
      "keys of another kind",
      { base: bert, data: await jsonl(folder, "k.jsonl", [{ a: "b", c: "d" }]), output },
      "data/keys",
      /line 1/,
    ],
    [
      "no image there",
      { base: vit, data: await jsonl(folder, "i.jsonl", [{ image: "x.png", label: 0 }]), output },
      "file/missing",
      /line 1.*x\.png/,
    ],
    [
      "an address",
      { base: vit, data: await jsonl(folder, "a.jsonl", [{ image: "https://x/y.png", label: 0 }]), output },
      "image/address",
      /line 1/,
    ],
  ];
  for (const [what, options, code, subject] of cases) {
    const error = await refused(run(options));
    assert.equal(error.code, code, `${what}: ${error.message}`);
    assert.match(String(error.subject ?? error.expected), subject, what);
  }
});
