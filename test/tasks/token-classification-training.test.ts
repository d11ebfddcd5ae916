// Token classification as a row of the table: on an encoder and on a decoder, from records to entities; records that are refused.
// slow
import assert from "node:assert/strict";
import { cp, readFile } from "node:fs/promises";
import { test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { evaluate, finetune, mergeAdapter, openClassifier, plan, preview } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { collect, near, only, refused } from "../helpers/assert.ts";
import { printed } from "../helpers/program.ts";
import { jsonl } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixtures = "test/fixtures";
const task = "token-classification";

async function bert(folder: string): Promise<string> {
  await cp(`${fixtures}/cases/bert-tokencls/base`, `${folder}/bert`, { recursive: true });
  await cp(`${fixtures}/tokenizers/bert-style`, `${folder}/bert`, { recursive: true });
  return `${folder}/bert`;
}

/** Animals and places, some of two words. */
const sentences = Array.from({ length: 48 }, (_, i) => {
  const [animal, place] = [["cat", "dog", "bird"][i % 3]!, ["mat", "film", "evening"][Math.floor(i / 3) % 3]!];
  const first = i % 2 === 0 ? { the: "O", [animal]: "B-ANIMAL" } : { a: "O", small: "B-ANIMAL", [animal]: "I-ANIMAL" };
  const pairs = [
    ...Object.entries(first),
    ...[
      ["sat", "O"],
      ["on", "O"],
      ["the", "O"],
      [place, "B-PLACE"],
    ],
  ];
  return { tokens: pairs.map(([word]) => word!), ner_tags: pairs.map(([, tag]) => tag!) };
});
const tags = ["O", "B-ANIMAL", "I-ANIMAL", "B-PLACE"];

for (const [name, bases] of [
  ["bert", bert],
  ["llama", async () => `${fixtures}/tiny-llama`],
] as const) {
  test(`${name} learns entities; eval, classify, merge, resume and full training follow`, async (t) => {
    const folder = temporaryFolder(t);
    const base = await bases(folder);
    const data = await jsonl(folder, "train.jsonl", sentences);
    const output = `${folder}/out`;
    const run = { base, data, task, batchSize: 8, learningRate: 1e-2 } as const;
    const events = await collect(finetune({ ...run, output, epochs: 8, evalSplit: 0.25 }));
    const last = only(events, "eval").at(-1)!;
    assert.ok(Number(last["f1"]) > 0.9 && last.accuracy! > 0.95, JSON.stringify(last));
    assert.equal((await plan(`${base}/config.json`, { task })).modules, only(events, "prepared")[0]!.modules);
    const adapter = await readAdapter(nodeFiles, output);
    assert.equal(adapter.config.taskType, "TOKEN_CLS");
    assert.deepEqual(adapter.labels, [...tags].sort());
    const head = name === "bert" ? "classifier" : "score";
    assert.deepEqual([...adapter.saved!.keys()].sort(), [`${head}.bias`, `${head}.weight`]);

    const score = await evaluate({ base, data, adapter: output, task });
    assert.equal(score.task, task);
    assert.deepEqual(
      score.adapter!.classes.map(({ label, support }) => [label, support]),
      [
        ["ANIMAL", 48],
        ["PLACE", 48],
      ],
    );
    assert.equal(score.adapter!.count, 48 * 6 + 24);
    const unlike = await evaluate({ base, data, adapter: output, task, batchSize: 5 });
    assert.deepEqual({ ...unlike.adapter!, loss: 0 }, { ...score.adapter!, loss: 0 }, "batches change nothing");
    near(unlike.adapter!.loss, score.adapter!.loss, 1e-5);

    const text = "the cat sat on\tthe mat";
    const expected = [
      ["ANIMAL", "cat", 4, 7],
      ["PLACE", "mat", 19, 22],
    ];
    const merged = `${folder}/merged`;
    await mergeAdapter({ base, adapter: output, output: merged, task });
    assert.match(await readFile(`${merged}/config.json`, "utf8"), /ForTokenClassification/);
    const found = [];
    for (const [opened, options] of [
      [base, { adapter: output }],
      [merged, {}],
    ] as const) {
      const classifier = await openClassifier(opened, options);
      assert.equal(classifier.task, task);
      const [one, other] = await classifier.classify([text, `${text} and the dog sat`]);
      await classifier.close();
      assert.deepEqual(
        one!.entities!.map(({ label, text, from, to }) => [label, text, from, to]),
        expected,
      );
      assert.equal(one!.words!.length, 6);
      assert.ok(other!.words!.length === 10 && one!.scores.length === 0);
      found.push(one!.words!.map(({ probability }) => probability));
    }
    near(found[1]!, found[0]!, 2e-2);

    // A run that was stopped goes on to the same bits.
    const whole = await collect(finetune({ ...run, output: `${folder}/whole`, steps: 6 }));
    const stop = new AbortController();
    const parts = { ...run, output: `${folder}/parts`, steps: 6 };
    for await (const event of finetune({ ...parts, signal: stop.signal }))
      if (event.type === "step" && event.step === 3) stop.abort();
    const rest = only(await collect(finetune({ ...parts, resume: true })), "step");
    assert.ok(rest.length > 0 && rest.length < 6);
    const losses = (steps: { loss: number }[]) => steps.map(({ loss }) => loss);
    assert.deepEqual(losses(rest), losses(only(whole, "step").slice(-rest.length)));

    const full = await collect(finetune({ ...run, output: `${folder}/full`, method: "full", epochs: 6, learningRate: 3e-3 }));
    const fully = losses(only(full, "step"));
    assert.ok(fully.at(-1)! < fully[0]! / 2, `loss ${fully[0]} → ${fully.at(-1)}`);
    assert.equal((await evaluate({ base: `${folder}/full`, data })).task, task);
  });
}

test("preview, plan and classify print words with their tags", async (t) => {
  const folder = temporaryFolder(t);
  const base = await bert(folder);
  const data = await jsonl(folder, "train.jsonl", sentences);
  const { train, shown, maxLength } = await preview({ base, data, task, examples: 2 });
  assert.deepEqual([train.words, maxLength], [312, 24]);
  assert.deepEqual(
    train.classes!.find(({ label }) => label === "I-ANIMAL"),
    { label: "I-ANIMAL", count: 24 },
  );
  assert.deepEqual(shown[1]!.words!.slice(0, 3), [
    { text: "a", label: "O" },
    { text: "small", label: "B-ANIMAL" },
    { text: "dog", label: "I-ANIMAL" },
  ]);
  const { stdout } = await printed("preview", "--base", base, "--data", data, "--task", task);
  assert.match(stdout, /words: {2}a \(O\) small \(B-ANIMAL\) dog \(I-ANIMAL\) sat \(O\)/);
  assert.match(stdout, /B-ANIMAL +48 +15\.4 %/);
  const cut = await preview({ base, data, task, maxLength: 5, examples: 1 });
  assert.deepEqual([cut.train.truncated, cut.shown[0]!.words!.length], [48, 3]);

  const output = `${folder}/out`;
  await collect(finetune({ base, data, output, task, epochs: 8, batchSize: 8, learningRate: 1e-2 }));
  const classify = ["classify", "--base", base, "--adapter", output, "--text", "the cat sat on the mat"];
  assert.match((await printed(...classify)).stdout, /^the +O +\d.*\ncat +B-ANIMAL [\s\S]*\n\ncat +ANIMAL +[\d.]+ %\nmat +PLACE/);
  const two = await printed(...classify, "--text", "the dog sat");
  assert.match(two.stdout, /^the cat sat on the mat: cat \(ANIMAL [\d.]+ %\), mat \(PLACE/);
  const pair = await printed(...classify, "--text-pair", "x");
  assert.match(pair.stderr, /two texts/);
});

test("tags are names or numbers, in columns of any name; what does not fit is refused with its place", async (t) => {
  const folder = temporaryFolder(t);
  const base = await bert(folder);
  const numbered = sentences.map(({ tokens, ner_tags }) => ({
    w: tokens,
    t: ner_tags.map((tag) => tags.indexOf(tag)),
    ner_tags: 1,
  }));
  const columns = { tokensColumn: "w", tagsColumn: "t" };
  const data = await jsonl(folder, "numbers.jsonl", numbered);
  const own = await preview({ base, data, task, ...columns });
  assert.deepEqual(
    own.train.classes!.map(({ label }) => label),
    ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"],
  );
  const unknown = await preview({ base: `${fixtures}/tiny-llama`, data, task, ...columns });
  assert.deepEqual(
    unknown.train.classes!.map(({ label }) => label),
    ["0", "1", "2", "3"],
  );
  const output = `${folder}/out`;
  await collect(finetune({ base, data, output, task, steps: 1, ...columns }));
  const lists = await preview({ base, data: `${fixtures}/parquet/lists.parquet`, task, tagsColumn: "small" });
  assert.deepEqual([lists.train.records, lists.train.words], [100, 200]);

  for (const [name, record, code, facts] of [
    ["length", { tokens: ["a", "b"], tags: ["O"] }, "data/value", /line 2[\s\S]*2, not 1/],
    ["text", { tokens: "a b", tags: ["O"] }, "data/value", /line 2[\s\S]*a list of words/],
    ["word", { tokens: ["a", 3], tags: ["O", "O"] }, "data/value", /line 2[\s\S]*a list of words/],
    ["tag", { tokens: ["a"], tags: [null] }, "data/value", /line 2[\s\S]*tags/],
    ["keys", { tokens: ["a"], pos: ["O"] }, "data/keys", /tokens-column/],
    ["both", { tokens: ["a"], tags: ["O"], ner_tags: ["O"] }, "data/keys", /several formats/],
  ] as const) {
    const file = await jsonl(folder, `${name}.jsonl`, [{ tokens: ["a"], tags: ["O"] }, record]);
    await refused(preview({ base, data: file, task }), code, facts);
  }
});
