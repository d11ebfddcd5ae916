// Previews of texts that are continued: on every family's chat template the marked text is the assistant's turns; counts are those of training.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type Preview, type PreviewOptions, preview } from "../../src/commands/preview/preview.ts";
import { makeExamples } from "../../src/data/dataset.ts";
import { readRecords } from "../../src/data/readers.ts";
import { loadTextBase } from "../../src/models/base.ts";
import { nodePlatform } from "../../src/node.ts";
import type { ContinuedStats, DatasetStats, Lengths } from "../../src/tasks/common/preview.ts";
import { taskOf } from "../../src/tasks/index.ts";
import { dataReader, finished } from "../../src/train/datasets.ts";
import { conversations, type Family, families, sourceOf } from "../helpers/chat-families.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";

const tiny = (name: string): string => readFileSync(`${fixtures}/tiny-llama/${name}`, "utf8");
const tokenizerJson = JSON.parse(tiny("tokenizer.json")) as { added_tokens: { content: string }[] };
const lines = (records: object[]): string => records.map((record) => `${JSON.stringify(record)}\n`).join("");

/** A base without weights: the small byte-level tokenizer with the markers of a template as tokens, and that template. */
function baseFiles(family?: Family): Record<string, string> {
  const markers = family ? `${sourceOf(family)} ${Object.values(family.tokens).join(" ")}`.match(/<[^<>\s']+>/g) : [];
  const known = new Set(tokenizerJson.added_tokens.map(({ content }) => content));
  const added = [...new Set(markers)].filter((content) => !known.has(content));
  const tokens = added.map((content, i) => ({ id: 512 + i, content, special: true }));
  return {
    "base/config.json": JSON.stringify({ ...JSON.parse(tiny("config.json")), vocab_size: 512 + tokens.length }),
    "base/tokenizer.json": JSON.stringify({ ...tokenizerJson, added_tokens: [...tokenizerJson.added_tokens, ...tokens] }),
    ...(family
      ? { "base/tokenizer_config.json": JSON.stringify(family.tokens), "base/chat_template.jinja": sourceOf(family) }
      : { "base/tokenizer_config.json": tiny("tokenizer_config.json") }),
  };
}

const look = (files: Record<string, string>, options: Partial<PreviewOptions> = {}): Promise<Preview> =>
  preview({ base: "base", data: "train.jsonl", ...options }, { ...nodePlatform, files: memoryFiles(files) });
const trainedTexts = ({ shown }: Preview): string[][] =>
  shown.map(({ parts }) => parts!.filter(({ trained }) => trained).map(({ text }) => text));

for (const family of families) {
  test(`${family.name}: what preview marks is the assistant's turns, end-of-turn tokens included`, async () => {
    const records = Object.keys(family.trained).map((name) => ({ messages: conversations[name] }));
    const files = { ...baseFiles(family), "train.jsonl": lines(records) };
    const options = { examples: 99, date: "2026-01-02", ids: true };
    const found = await look(files, options);
    assert.deepEqual(trainedTexts(found), Object.values(family.trained));
    assert.deepEqual(
      trainedTexts(await look(files, { ...options, trainOn: "last" })),
      Object.values(family.trained).map((turns) => turns.slice(-1)),
    );
    const stops = found.warnings.every((text) => !text.includes("stops generation"));
    // Falcon's answers, and those of Alpaca and gpt-oss inside a conversation, end with no such token; that Phi-3's and Gemma's
    // do, is said by a generation_config.json, which is not here.
    assert.equal(
      stops,
      !["falcon", "phi-3", "alpaca", "gemma-2", "gemma-3", "gpt-oss"].includes(family.name),
      String(found.warnings),
    );
  });
}

const answers = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ prompt: `name[Place ${i}]\n`, completion: "good food. ".repeat(1 + (i % 7)) }));

test("counts, cuts and drops are those that training reports", async () => {
  const records = [...answers(30), { prompt: "name[The Eagle], ".repeat(9), completion: "late" }];
  const files = { ...baseFiles(), "train.jsonl": lines(records) };
  const maxLength = 40;
  const { train, maxLength: used, warnings } = await look(files, { maxLength });
  const { continued, lengths: found } = train as DatasetStats & { continued: ContinuedStats; lengths: Lengths };
  const memory = memoryFiles(files);
  const tokenizer = await (await loadTextBase(memory, "base", nodePlatform.timeLimit)).tokenizer();
  const whole = await makeExamples(readRecords(memory, "train.jsonl"), tokenizer, { maxLength: 10_000 });
  const { report } = await makeExamples(readRecords(memory, "train.jsonl"), tokenizer, { maxLength });
  assert.equal(used, maxLength);
  assert.equal(continued.kind, "completion");
  assert.deepEqual(train.file?.used, ["prompt", "completion"]);
  assert.deepEqual(
    [train.records, continued.examples, train.tokens, continued.trained, train.truncated],
    [31, report.count, report.tokens, report.targets, report.truncated],
  );
  assert.ok(report.truncated > 1);
  assert.deepEqual(continued.dropped, { cut: 1, empty: 0, places: ["line 31"] });
  const lengths = whole.examples.map(({ ids }) => ids.length).sort((a, b) => a - b);
  assert.equal(
    continued.cutTokens,
    lengths.reduce((n, length) => n + Math.max(0, length - maxLength), 0),
  );
  assert.equal(continued.cutTrained, whole.report.targets - report.targets);
  assert.deepEqual(
    [found.shortest, found.median, found.most, found.longest],
    [lengths[0], lengths[15], lengths[29], lengths[30]],
  );
  for (const { from, to, count } of found.histogram) {
    assert.equal(count, lengths.filter((length) => length >= from && length <= to).length);
  }
  assert.equal(
    found.histogram.reduce((n, { count }) => n + count, 0),
    31,
  );
  assert.ok(found.histogram.length <= 10);
  assert.match(warnings.join("\n"), /of 31 examples are truncated at 40 tokens/);
});

test("the records kept for evaluation are those of training", async () => {
  const files = { ...baseFiles(), "train.jsonl": lines(answers(20)) };
  const found = await look(files, { evalSplit: 0.3, seed: 5, examples: 99, ids: true });
  const base = await loadTextBase(memoryFiles(files), "base");
  const memory = { files: memoryFiles(files) };
  const reader = dataReader(memory.files, await taskOf("causal-lm").data(base, { trainOn: "completion" }, memory));
  const { train, held } = await finished(reader.split("train.jsonl", 0.3, 5));
  const examples = await train.examples.read(Array.from({ length: train.examples.length }, (_, i) => i));
  assert.deepEqual(
    found.shown.map(({ ids }) => ids),
    examples.map(({ ids }) => [...ids]),
  );
  assert.equal(found.evaluation!.tokens, held.report.tokens);
  assert.equal(found.evaluation!.records, 6);
});

test("duplicates: within a file, across files, and prompts that are asked again", async () => {
  const [a, b, c, d] = answers(4) as [object, object, object, object];
  const files = {
    ...baseFiles(),
    "train.jsonl": lines([a, b, a, a]),
    "eval.jsonl": lines([a, c, c, { ...b, completion: "other" }, d]),
  };
  const { duplicates, warnings } = await look(files, { evalData: "eval.jsonl" });
  assert.deepEqual(duplicates, { train: 2, evaluation: 1, contradicting: 0, shared: 1, sameQuestion: 1 });
  assert.match(warnings.join("\n"), /1 of 5 evaluation records are training records/);
  const chat = (answer: string) => ({
    messages: [
      { role: "user", content: "Hi" },
      { role: "assistant", content: answer },
    ],
  });
  const chats = {
    ...baseFiles(),
    "train.jsonl": lines([chat("Hello."), chat("Hello."), chat("Yes?")]),
    "eval.jsonl": lines([chat("No.")]),
  };
  assert.deepEqual((await look(chats, { evalData: "eval.jsonl" })).duplicates, {
    train: 1,
    evaluation: 0,
    contradicting: 1,
    shared: 0,
    sameQuestion: 1,
  });
});

test("nothing trained, and everything trained, are warned of", async () => {
  const user = { messages: [{ role: "user", content: "Hi" }] };
  const none = await look({ ...baseFiles(), "train.jsonl": lines([user]) });
  assert.deepEqual(none.train.continued!.dropped, { cut: 0, empty: 1, places: ["line 1"] });
  assert.match(none.warnings.join("\n"), /no token is trained, and a run would refuse the data/);
  assert.match((await look({ ...baseFiles(), "train.jsonl": "" })).warnings.join("\n"), /there are no records/);
  const marked = "{% for m in messages %}{% generation %}{{ m.content }}<|endoftext|>{% endgeneration %}{% endfor %}";
  const chat = { messages: [...user.messages, { role: "assistant", content: "Hello." }] };
  const all = await look({ ...baseFiles(), "base/chat_template.jinja": marked, "train.jsonl": lines([chat]) });
  assert.match(all.warnings.join("\n"), /every token is trained/);
  // Where that is asked for, or natural, there is nothing to warn of.
  const asked = await look({ ...baseFiles(), "train.jsonl": lines([chat]) }, { trainOn: "all" });
  const text = await look({ ...baseFiles(), "train.jsonl": lines([{ text: "Once upon a time" }]) });
  assert.deepEqual([...asked.warnings, ...text.warnings], []);
});

test("no weight is read, and a base without a template says what to do", async () => {
  const files = { ...baseFiles(), "train.jsonl": lines([{ messages: conversations["two turns"] }]) };
  const memory = memoryFiles(files);
  await preview({ base: "base", data: "train.jsonl" }, { ...nodePlatform, files: memory });
  assert.deepEqual([...new Set(memory.reads.map(({ path }) => path))].sort(), [
    "base/config.json",
    "base/tokenizer.json",
    "base/tokenizer_config.json",
    "train.jsonl",
  ]);
  await assert.rejects(look({ ...files, "base/tokenizer_config.json": "{}" }), {
    code: "data/no-template",
    next: /chat_template\.jinja|template/,
  });
});

test("options are checked by name", async () => {
  const files = { ...baseFiles(), "train.jsonl": lines(answers(2)) };
  await assert.rejects(look(files, { evalData: "train.jsonl", evalSplit: 0.5 }), {
    code: "preview/option",
    subject: "evalSplit",
  });
  await assert.rejects(look(files, { evalSplit: 1 }), { code: "preview/option", subject: "evalSplit" });
  await assert.rejects(look(files, { examples: -1 }), { code: "preview/option", subject: "examples" });
  await assert.rejects(look(files, { maxLength: 4096 }), { code: "train/option", subject: "maxLength" });
});
