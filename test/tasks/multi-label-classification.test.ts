// Multi-label classification as a row of the table: on an encoder and on a decoder, from records to predictions; measures against scikit-learn's.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { evaluate, finetune, mergeAdapter, openClassifier, plan, preview } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { multiLabelMeasures } from "../../src/tasks/multi-label-classification/index.ts";
import { collect, near, only, refused } from "../helpers/assert.ts";
import { jsonl, taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const task = "multi-label-classification";
const animals = ["cat", "dog", "bird"];
/** Texts that name some of three animals, or none. */
const records = Array.from({ length: 32 }, (_, i) => {
  const labels = animals.filter((_, a) => (i >> a) & 1);
  return { text: `${["a", "the", "this", "an"][i % 4]} ${labels.join(" ") || "house"} ${i & 8 ? "sat" : "is small"}`, labels };
});

for (const [name, bases] of [
  ["bert", (folder: string) => taskBase(folder, "bert")],
  ["llama", async () => "test/fixtures/tiny-llama"],
] as const) {
  test(`${name} learns several classes a text; eval, classify, preview, plan and merge follow`, async (t) => {
    const folder = temporaryFolder(t);
    const base = await bases(folder);
    const data = await jsonl(folder, "train.jsonl", records);
    const output = `${folder}/out`;
    const run = { base, data, output, task, epochs: 20, batchSize: 8, learningRate: 8e-3, evalSplit: 0.25 } as const;
    const events = await collect(finetune(run));
    const evals = only(events, "eval");
    assert.ok(evals.at(-1)!.loss < evals[0]!.loss, `loss ${evals[0]!.loss} → ${evals.at(-1)!.loss}`);
    assert.ok(Number(evals.at(-1)!["microF1"]) > 0.6);
    const adapter = await readAdapter(nodeFiles, output);
    assert.equal(adapter.config.taskType, "SEQ_CLS");
    assert.deepEqual(adapter.labels, ["bird", "cat", "dog"]);

    const score = await evaluate({ base, data, adapter: output, task });
    assert.equal(score.base, null);
    assert.ok(score.adapter!.microF1 > 0.6 && score.adapter!.classes.every(({ support }) => support === 16));

    // The adapter says what it was trained for.
    const classifier = await openClassifier(base, { adapter: output });
    assert.equal(classifier.task, task);
    const inputs = records.slice(0, 8).map(({ text }) => text);
    const alone = await classifier.classify(inputs);
    await classifier.close();
    const right = alone.filter(({ scores }, i) =>
      scores.every(({ label, probability }) => records[i]!.labels.includes(label) === probability > 0.5),
    );
    assert.ok(right.length >= 4, `${right.length} of 8`);

    const merged = `${folder}/merged`;
    await mergeAdapter({ base, adapter: output, output: merged });
    const again = await openClassifier(merged);
    assert.equal(again.task, task, "config.json of the merged model says problem_type");
    const all = (found: typeof alone) =>
      found.flatMap(({ scores }) => animals.map((animal) => scores.find(({ label }) => label === animal)!.probability));
    near(all(await again.classify(inputs)), all(alone), 2e-2);
    await again.close();

    const shown = await preview({ base, data, task });
    assert.deepEqual(
      shown.shown.map(({ label }) => label),
      ["none", "cat", "dog"],
    );
    assert.deepEqual(
      shown.train.classes,
      ["bird", "cat", "dog"].map((label) => ({ label, count: 16 })),
    );
    assert.equal((await plan(`${base}/config.json`, { task })).modules, only(events, "prepared")[0]!.modules);
  });
}

test("classes are lists, or names with commas between them; anything else is refused with its line", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const shown = async (...labels: unknown[]) => {
    const data = await jsonl(folder, "labels.jsonl", labels.map((given) => ({ text: "a cat", labels: given })) as object[]);
    return (await preview({ base, data, task })).shown.map(({ label }) => label);
  };
  assert.deepEqual(await shown(["b", "a", "a"], "a, b", ""), ["b, a", "a, b", "none"]);
  assert.deepEqual(await shown([], [1, "a"]), ["none", "1, a"]);
  for (const bad of [null, 3, { a: 1 }, [["a"]], ["a", ""], [0.5]]) {
    const error = await refused(shown("a, b", bad), "data/value");
    assert.match(error.subject!, /labels\.jsonl, line 2/);
  }
});

test("measures are scikit-learn's of indicator matrices", () => {
  // f1_score(…, average="micro" and "macro"), accuracy_score, precision_recall_fscore_support.
  const expected = [1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1];
  const found = [1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1];
  const measures = multiLabelMeasures(expected, found, ["a", "b", "c"]);
  near([measures.microF1, measures.macroF1, measures.subsetAccuracy], [2 / 3, 2 / 3, 0.2], 1e-7);
  near(
    measures.classes.map(({ precision }) => precision),
    [1, 0.5, 0.5],
    1e-12,
  );
  assert.equal(multiLabelMeasures([], [], ["a"]).microF1, 0);
});
