// Sentence embeddings: from pairs of texts to vectors, on encoders and decoders, and the files that sentence-transformers reads.
// slow
import assert from "node:assert/strict";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { describe, it, test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { evaluate, finetune, inspectAdapter, inspectBase, mergeAdapter, openEmbedder, plan, preview } from "../../src/index.ts";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { pearson, spearman } from "../../src/tasks/common/measures.ts";
import { ownTask } from "../../src/tasks/index.ts";
import type { FinetuneOptions } from "../../src/train/options.ts";
import { collect, greatestDifference, near, only, refused } from "../helpers/assert.ts";
import { jsonl } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixtures = "test/fixtures";
const run = (options: FinetuneOptions): Promise<FinetuneEvent[]> => collect(finetune(options));

/** A base of this case, with a tokenizer, inside `folder`. */
async function baseOf(folder: string, golden: string): Promise<string> {
  const base = `${folder}/${golden}`;
  await cp(`${fixtures}/cases/${golden}/base`, base, { recursive: true });
  await cp(`${fixtures}/tokenizers/bert-style`, base, { recursive: true });
  return base;
}

/** Eight pairs that share a word. */
const words = ["cat", "dog", "film", "joy", "photo", "bird", "story", "love"];
const pairs = words.map((word) => ({ anchor: `is this a ${word}?`, positive: `yes, the ${word} sat on the mat` }));

async function vectorsOf(base: string, options: Parameters<typeof openEmbedder>[1], texts = words): Promise<Float32Array[]> {
  const embedder = await openEmbedder(base, { threads: 1, ...options });
  try {
    return await embedder.embedTexts(texts);
  } finally {
    await embedder.close();
  }
}

const apart = (a: Float32Array[], b: Float32Array[]): number =>
  Math.max(...a.map((vector, i) => greatestDifference(vector, b[i]!)));

const setting = { epochs: 25, batchSize: 8, learningRate: 5e-3, threads: 1, task: "sentence-embedding" } as const;

for (const [golden, pooling] of [
  ["bert-embedding", "mean"],
  ["bert-seqcls", "mean"],
  ["qwen2-bias", "last"],
  ["gpt2-conv1d", "last"],
] as const) {
  test(`${golden}: an adapter learns which texts belong together, and is merged into a model of sentence embeddings`, async (t) => {
    const folder = temporaryFolder(t);
    const base = await baseOf(folder, golden);
    const data = await jsonl(folder, "train.jsonl", pairs);
    const output = `${folder}/out`;
    const events = await run({ ...setting, base, data, output, evalData: data, evalEvery: 25 });
    const losses = only(events, "eval").map(({ loss }) => loss);
    assert.ok(losses.at(-1)! < losses[0]! || losses.length === 1);
    assert.ok(only(events, "step").at(-1)!.loss < only(events, "step")[0]!.loss / 2);
    assert.equal(only(events, "eval").at(-1)!["recall@1"], 1);

    const adapter = await readAdapter(nodeFiles, output);
    assert.equal(adapter.config.taskType, "FEATURE_EXTRACTION");
    assert.ok(adapter.modules.every(({ path }) => !/^(bert|model|transformer)\./.test(path)));
    assert.deepEqual([adapter.head?.head, adapter.head?.pooling], ["embedding", pooling]);

    // The adapter says what it is for.
    const found = await evaluate<"sentence-embedding">({ base, adapter: output, data, threads: 1 });
    assert.equal(found.task, "sentence-embedding");
    assert.equal(found.adapter!.recall![1], 1);
    assert.ok(found.base.recall![1] < 1 && found.base.loss > found.adapter!.loss);

    const merged = `${folder}/merged`;
    await mergeAdapter({ base, adapter: output, output: merged });
    assert.equal(ownTask((await openBase(nodeFiles, merged)).config), "sentence-embedding");
    const adapted = await vectorsOf(base, { adapter: output });
    assert.ok(apart(await vectorsOf(merged, {}), adapted) < 1e-5);
    assert.ok(apart(await vectorsOf(base, {}), adapted) > 1e-2);
    for (const vector of adapted) near(Math.hypot(...vector), 1, 1e-6);
    assert.equal((await inspectBase(merged)).config.pooling, pooling);
    assert.equal((await inspectAdapter(output, { base })).madeForBase, true);
  });
}

test("full fine-tuning of a decoder with another pooling writes a model that is read back as trained", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "qwen2-bias");
  const data = await jsonl(folder, "train.jsonl", pairs);
  const output = `${folder}/out`;
  const full = { ...setting, base, data, output, method: "full", pooling: "mean", learningRate: 2e-3 } as const;
  const losses = only(await run(full), "step").map(({ loss }) => loss);
  assert.ok(losses.at(-1)! < losses[0]! / 2);
  const [mean, own, last] = [
    await vectorsOf(output, { pooling: "mean" }),
    await vectorsOf(output, {}),
    await vectorsOf(output, { pooling: "last" }),
  ];
  assert.equal(apart(mean, own), 0);
  assert.ok(apart(own, last!) > 1e-2);
  const { data: report, base: score } = await evaluate<"sentence-embedding">({ base: output, data, threads: 1 });
  assert.deepEqual([report.count, score.recall![1]], [8, 1]);
});

test("a run that is stopped goes on to the same bits", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "bert-embedding");
  const data = await jsonl(folder, "train.jsonl", pairs);
  const options = { ...setting, base, data, epochs: undefined, steps: 6, batchSize: 4, checkpointEvery: 2, scale: 10, seed: 3 };
  await run({ ...options, output: `${folder}/whole` });
  const output = `${folder}/parts`;
  for await (const event of finetune({ ...options, output })) if (event.type === "checkpoint" && event.step === 4) break;
  await refused(run({ output, resume: true, scale: 20 }), /^train\//);
  await run({ output, resume: true });
  const bytes = (of: string) => readFile(`${folder}/${of}/adapter_model.safetensors`);
  assert.deepEqual(await bytes("parts"), await bytes("whole"));
});

test("the pooling: an option, or what is beside the adapter, or beside the base", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "bert-embedding");
  const data = await jsonl(folder, "train.jsonl", pairs);
  const [cls, mean] = [`${folder}/cls`, `${folder}/mean`];
  await run({ ...setting, base, data, output: cls, epochs: 1, pooling: "cls", maxLength: 12 });
  await run({ ...setting, base, data, output: mean, epochs: 1 });
  const poolingOf = async (of: string) => (await readAdapter(nodeFiles, of)).head!.pooling;
  assert.deepEqual([await poolingOf(cls), await poolingOf(mean)], ["cls", "mean"]);
  await cp(`${cls}/modules.json`, `${base}/modules.json`);
  await cp(`${cls}/1_Pooling`, `${base}/1_Pooling`, { recursive: true });
  const own = await vectorsOf(base, {});
  assert.equal(apart(own, await vectorsOf(base, { pooling: "cls" })), 0);
  assert.ok(apart(own, await vectorsOf(base, { pooling: "mean" })) > 1e-2);
  assert.equal(apart(await vectorsOf(base, { adapter: mean }), await vectorsOf(base, { adapter: mean, pooling: "mean" })), 0);

  // Adapters of different poolings, and of different longest texts, one after another.
  const embedder = await openEmbedder(base, { adapter: cls, threads: 1 });
  t.after(embedder.close);
  const long = [`${"cat ".repeat(15)}dog`, `${"cat ".repeat(15)}bird`];
  const [first, second] = await embedder.embedTexts(long);
  await embedder.useAdapter(await readAdapter(nodeFiles, mean));
  assert.ok(apart(await embedder.embedTexts(words), await vectorsOf(base, { adapter: mean })) < 1e-6);
  const [third, fourth] = await embedder.embedTexts(long);
  assert.ok(greatestDifference(third!, fourth!) > 0);
  assert.equal(greatestDifference(first!, second!), 0);
});

test("records with scores: correlations, and training toward them", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "bert-embedding");
  const scores = [1, 0.1, 0.7, 0.1, 0.4, 0.9];
  const records = scores.map((score, i) => ({
    sentence1: `the ${words[i]} sat`,
    sentence2: `a ${words[i + 1]} is ${i % 2 ? "small" : "large"}`,
    score,
  }));
  const data = await jsonl(folder, "sts.jsonl", records);
  const vectors = [
    await vectorsOf(
      base,
      {},
      records.map(({ sentence1 }) => sentence1),
    ),
    await vectorsOf(
      base,
      {},
      records.map(({ sentence2 }) => sentence2),
    ),
  ];
  const cosines = scores.map((_, i) => vectors[0]![i]!.reduce((sum, x, j) => sum + x * vectors[1]![i]![j]!, 0));
  const found = await evaluate<"sentence-embedding">({ base, data, task: "sentence-embedding", threads: 1, batchSize: 4 });
  assert.equal(found.base.recall, null);
  near(found.base.pearson!, pearson(cosines, scores)!, 1e-5);
  near(found.base.spearman!, spearman(cosines, scores)!, 1e-9);
  near(found.base.loss, scores.reduce((sum, score, i) => sum + (score - cosines[i]!) ** 2, 0) / 6, 1e-5);
  const events = await run({ ...setting, base, data, output: `${folder}/out`, epochs: 40, evalData: data });
  const last = only(events, "eval").at(-1)!;
  assert.ok(last.loss < found.base.loss / 5);
  assert.ok(Number(last["spearman"]) > 0.8);

  // From texts, as CSV files have them.
  await writeFile(`${folder}/sts.csv`, "a,b,how\nthe cat,the dog,4.5\nthe film,the joy,1\na photo,a bird,2\n");
  const named = { anchorColumn: "a", positiveColumn: "b", scoreColumn: "how" };
  const csv = await evaluate<"sentence-embedding">({
    base,
    data: `${folder}/sts.csv`,
    task: "sentence-embedding",
    threads: 1,
    ...named,
  });
  assert.equal(csv.base.pairs, 3);
  const shown = await preview({ base, data: `${folder}/sts.csv`, task: "sentence-embedding", ...named });
  assert.match(shown.warnings.join("\n"), /2 of 3 scores are not from -1 to 1/);
});

test("ranks share the mean of equal places, as SciPy's do; without variation there is no correlation", () => {
  // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7])
  near(spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7])!, 0.8207826816681233, 1e-12);
  assert.equal(pearson([1, 1], [0, 1]), null);
});

test("negatives, one or several, are compared with every anchor", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "bert-embedding");
  const records = pairs.slice(0, 3).map((pair, i) => ({
    ...pair,
    negative: i === 0 ? ["no film", "no joy"] : `the ${words[i + 2]} is dull`,
  }));
  const data = await jsonl(folder, "triplets.jsonl", records);
  const texts = [
    ...records.map(({ anchor }) => anchor),
    ...records.map(({ positive }) => positive),
    ...records.flatMap(({ negative }) => negative),
  ];
  const all = await vectorsOf(base, {}, texts);
  const losses = [0, 1, 2].map((i) => {
    const scores = all.slice(3).map((other) => 5 * other.reduce((sum, x, j) => sum + x * all[i]![j]!, 0));
    return Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0)) - scores[i]!;
  });
  const found = await evaluate<"sentence-embedding">({ base, data, task: "sentence-embedding", scale: 5, threads: 1 });
  near(found.base.loss, losses.reduce((a, b) => a + b) / 3, 1e-5);
  const steps = only(await run({ ...setting, base, data, output: `${folder}/out`, epochs: 5, batchSize: 3 }), "step");
  assert.ok(steps.at(-1)!.loss < steps[0]!.loss);
});

test("recall counts equal texts once, and any positive of an anchor", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "bert-embedding");
  const same = [
    { query: "the cat", answer: "the cat" },
    { query: "the cat", answer: "a bird sat on the mat" },
    { query: "a film", answer: "a film" },
    { query: "the film", answer: "a film" },
  ];
  const data = await jsonl(folder, "same.jsonl", same);
  const { base: score } = await evaluate<"sentence-embedding">({ base, data, task: "sentence-embedding", threads: 1 });
  assert.deepEqual([score.pairs, score.candidates], [4, 3]);
  assert.ok(score.recall![1] >= 2 / 3);
  const found = await preview({ base, data, task: "sentence-embedding", examples: 1 });
  assert.match(found.warnings.join("\n"), /2 of 4 pairs have an anchor or a positive of an earlier one/);
  assert.equal(found.shown[0]!.text!.length, 2);
});

test("records that cannot be used are refused by their place", async (t) => {
  const folder = temporaryFolder(t);
  const base = await baseOf(folder, "bert-embedding");
  const other = async (record: object, code: string, facts: object) => {
    const data = await jsonl(folder, "bad.jsonl", [pairs[0]!, record]);
    await refused(run({ ...setting, base, data, output: `${folder}/bad`, epochs: 1 }), code, facts);
  };
  await other({ anchor: "a cat", positive: " " }, "data/value", { subject: /line 2/ });
  await other({ anchor: "a cat", positive: 3 }, "data/value", { subject: /line 2/ });
  await other({ sentence1: "a", sentence2: "b", score: 1 }, "data/mixed", { subject: /line 2/ });
  const scored = await jsonl(folder, "scored.jsonl", [{ sentence1: "a", sentence2: "b", score: "high" }]);
  await refused(evaluate({ base, data: scored, task: "sentence-embedding" }), "data/value", { expected: /a number/ });
  const data = await jsonl(folder, "pairs.jsonl", pairs);
  await refused(run({ ...setting, base, data, output: `${folder}/one`, batchSize: 1 }), "train/option", { subject: "batchSize" });
});

test("a plan counts the texts of pairs", async () => {
  const config = JSON.parse(await readFile(`${fixtures}/cases/bert-embedding/base/config.json`, "utf8"));
  const [embedding, classifier] = [
    await plan(config, { task: "sentence-embedding", batchSize: 4, maxLength: 16 }),
    await plan(config, { batchSize: 4, maxLength: 16 }),
  ];
  assert.ok(embedding.time.flopsPerStep > 1.9 * classifier.time.flopsPerStep);
  assert.ok(embedding.memory.activations > 1.5 * classifier.memory.activations);
});

describe("the files of sentence-transformers", () => {
  const list = (...kinds: string[]) =>
    kinds.map((kind, idx) => ({ idx, path: idx === 0 ? "" : `${idx}_${kind}`, type: `a.b.${kind}` }));
  const embeddingFiles: [name: string, content: unknown][] = [
    ["modules.json", list("Transformer", "Pooling", "Normalize")],
    ["1_Pooling/config.json", { embedding_dimension: 32, pooling_mode: "lasttoken", include_prompt: true }],
  ];
  const cases: [what: string, changed: [name: string, content: unknown][], code: string, facts: object][] = [
    ["another module", [["modules.json", list("Transformer", "Pooling", "Dense")]], "model/unsupported", { got: /Dense/ }],
    ["no pooling", [["modules.json", list("Transformer")]], "model/unsupported", {}],
    ["an empty list", [["modules.json", []]], "model/config", { subject: /modules\.json/ }],
    ["an object", [["modules.json", {}]], "model/config", {}],
    ["no JSON", [["modules.json", "["]], "json/syntax", { subject: /modules\.json/ }],
    [
      "a path out of the folder",
      [
        [
          "modules.json",
          [
            { path: "", type: "Transformer" },
            { path: "../x", type: "Pooling" },
          ],
        ],
      ],
      "model/config",
      {},
    ],
    [
      "a transformer elsewhere",
      [
        [
          "modules.json",
          [
            { path: "0_T", type: "Transformer" },
            { path: "1_Pooling", type: "Pooling" },
          ],
        ],
      ],
      "model/unsupported",
      {},
    ],
    ["a pooling that is not there", [["1_Pooling/config.json", { pooling_mode: "max" }]], "model/unsupported", { got: /max/ }],
    [
      "two poolings",
      [["1_Pooling/config.json", { pooling_mode_cls_token: true, pooling_mode_mean_tokens: true }]],
      "model/unsupported",
      {},
    ],
    [
      "a length of nothing",
      [["sentence_bert_config.json", { max_seq_length: 0 }]],
      "model/config",
      { subject: /sentence_bert_config/ },
    ],
    ["lower case", [["sentence_bert_config.json", { max_seq_length: 8, do_lower_case: true }]], "model/unsupported", {}],
    [
      "a prompt without a text",
      [["config_sentence_transformers.json", { prompts: { a: "b" }, default_prompt_name: "c" }]],
      "model/config",
      {},
    ],
  ];
  const write = async (base: string, files: [name: string, content: unknown][]) => {
    for (const [name, content] of files) {
      await mkdir(`${base}/1_Pooling`, { recursive: true });
      await writeFile(`${base}/${name}`, typeof content === "string" ? content : JSON.stringify(content));
    }
  };
  for (const [what, changed, code, facts] of cases) {
    it(`${what} is refused, with a next step`, async (t) => {
      const base = await baseOf(temporaryFolder(t), "bert-embedding");
      await write(base, [...embeddingFiles, ...changed]);
      await refused(openBase(nodeFiles, base), code, facts);
    });
  }

  it("make a base one of sentence embeddings, with their pooling, length and prompts", async (t) => {
    const folder = temporaryFolder(t);
    const base = await baseOf(folder, "bert-embedding");
    assert.equal(ownTask((await openBase(nodeFiles, base)).config), "sequence-classification");
    const prompts = { prompts: { query: "a story: " }, default_prompt_name: null };
    await write(base, [
      ...embeddingFiles,
      ["sentence_bert_config.json", { max_seq_length: 9 }],
      ["config_sentence_transformers.json", prompts],
    ]);
    const { config } = await openBase(nodeFiles, base);
    assert.deepEqual([ownTask(config), config.pooling, config.maxTokens], ["sentence-embedding", "last", 9]);
    const [plain, prompted, spelled] = [
      await vectorsOf(base, {}),
      await vectorsOf(base, { promptName: "query" }),
      await vectorsOf(
        base,
        {},
        words.map((word) => `a story: ${word}`),
      ),
    ];
    assert.equal(apart(prompted, spelled), 0);
    assert.ok(apart(plain, prompted) > 1e-3);
    await refused(vectorsOf(base, { promptName: "document" }), "predict/option", { got: "document" });

    // What is trained on it keeps them.
    const data = await jsonl(folder, "train.jsonl", pairs);
    await run({ ...setting, task: undefined, base, data, output: `${folder}/out`, epochs: 1 });
    const { head } = await readAdapter(nodeFiles, `${folder}/out`);
    assert.deepEqual(head, { head: "embedding", pooling: "last", maxTokens: 9, prompts: prompts.prompts, promptName: null });
    assert.equal(JSON.parse(await readFile(`${folder}/out/tokenizer_config.json`, "utf8")).tokenizer_class !== undefined, true);
    await rm(`${base}/modules.json`);
    const merged = `${folder}/merged`;
    await mergeAdapter({ base, adapter: `${folder}/out`, output: merged });
    assert.deepEqual((await openBase(nodeFiles, merged)).config.prompts, prompts.prompts);
  });
});
