// Regression as a row of the table: on an encoder and on a decoder, from records to predictions; measures against SciPy's numbers.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { evaluate, finetune, mergeAdapter, openClassifier, plan, preview } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { pearson, spearman } from "../../src/tasks/common/measures.ts";
import { collect, near, only, refused } from "../helpers/assert.ts";
import { jsonl, taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const animals = { cat: 1, dog: 2.5, bird: -0.5 };
const records = Array.from({ length: 24 }, (_, i) => {
  const [animal, score] = Object.entries(animals)[i % 3]!;
  return {
    text: `${["a", "the", "this", "an"][i % 4]} ${animal} ${["sat", "is small", "is large"][(i >> 2) % 3]}`,
    label: score,
  };
});

for (const [name, bases] of [
  ["bert", (folder: string) => taskBase(folder, "bert")],
  ["llama", async () => "test/fixtures/tiny-llama"],
] as const) {
  test(`${name} learns numbers, alone by --task; eval, classify, preview, plan and merge follow`, async (t) => {
    const folder = temporaryFolder(t);
    const base = await bases(folder);
    const data = await jsonl(folder, "train.jsonl", records);
    const output = `${folder}/out`;
    const task = "regression";
    const run = { base, data, output, task, epochs: 15, batchSize: 6, learningRate: 5e-3, evalSplit: 0.25 } as const;
    const events = await collect(finetune(run));
    const evals = only(events, "eval");
    assert.ok(evals.at(-1)!.loss < evals[0]!.loss / 2, `loss ${evals[0]!.loss} → ${evals.at(-1)!.loss}`);
    assert.ok(Number(evals.at(-1)!["pearson"]) > 0.5);
    const adapter = await readAdapter(nodeFiles, output);
    assert.equal(adapter.config.taskType, "SEQ_CLS");

    const score = await evaluate({ base, data, adapter: output, task });
    assert.equal(score.task, task);
    assert.ok(score.adapter!.spearman > 0.5 && score.adapter!.mae < 1);
    const classifier = await openClassifier(base, { adapter: output, task });
    const inputs = records.slice(0, 5).map(({ text }) => text);
    const alone = await classifier.classify(inputs);
    await classifier.close();
    for (const [i, { value, scores }] of alone.entries()) {
      assert.deepEqual(scores, []);
      assert.ok(Math.abs(value! - records[i]!.label) < 1.5, `${value} for ${records[i]!.label}`);
    }

    const merged = `${folder}/merged`;
    await mergeAdapter({ base, adapter: output, output: merged, task });
    const again = await openClassifier(merged);
    assert.equal(again.task, task, "config.json of the merged model says problem_type");
    near(
      (await again.classify(inputs)).map(({ value }) => value!),
      alone.map(({ value }) => value!),
      2e-2,
    );
    await again.close();

    const shown = await preview({ base, data, task });
    assert.equal(shown.shown[0]!.label, "1");
    assert.equal(shown.train.records, 24);
    const planned = await plan(`${base}/config.json`, { task });
    assert.equal(planned.modules, only(events, "prepared")[0]!.modules);
  });
}

test("what is no number is refused with its line, and classes of text as well", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "bert");
  const data = await jsonl(folder, "bad.jsonl", [records[0]!, { text: "a cat", label: "large" }]);
  const error = await refused(
    collect(finetune({ base, data, output: `${folder}/out`, task: "regression", steps: 1 })),
    "data/value",
  );
  assert.match(error.subject!, /bad\.jsonl, line 2/);
  for (const label of [true, [5], null, " ", 1e300]) {
    const one = await jsonl(folder, "one.jsonl", [records[0]!, { text: "a cat", label }]);
    await refused(preview({ base, data: one, task: "regression" }), "data/value", { expected: /a number/ });
  }
});

test("correlations are SciPy's, ties included", () => {
  // scipy.stats.pearsonr and spearmanr of these lists.
  const [a, b] = [
    [1, 2, 2, 4, 5, 7],
    [2, 1, 3, 3, 8, 5],
  ];
  near(pearson(a, b)!, 0.7075491, 1e-6);
  near(spearman(a, b)!, 0.8088235, 1e-6);
  assert.equal(pearson([1, 1], [1, 2]), null);
});
