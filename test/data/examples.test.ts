// data/examples.ts: tokens and targets of each kind of record; on PEFT's real run, as many targets as PEFT had.
import assert from "node:assert/strict";
import { test } from "node:test";
import { makeBatch } from "../../src/data/batch.ts";
import { makeExamples } from "../../src/data/dataset.ts";
import type { ExampleOptions } from "../../src/data/examples.ts";
import { readRecords } from "../../src/data/readers.ts";
import type { DataRecord } from "../../src/data/records.ts";
import { type Example, IGNORE } from "../../src/data/types.ts";
import type { LowrankError } from "../../src/errors.ts";
import { loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { llama2StyleFiles } from "../helpers/llama2-style.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { smollm2File, smollm2Json, smollm2Tokenizer } from "../helpers/smollm2.ts";

const make = (tokenizer: Tokenizer, records: DataRecord[], options: Partial<ExampleOptions> = {}) =>
  makeExamples(
    records.map((record, i) => ({ record, place: `line ${i + 1}` })),
    tokenizer,
    { maxLength: 512, ...options },
  );
const targets = ({ labels }: Example) => labels.filter((label) => label !== IGNORE);
const one = async (tokenizer: Tokenizer, record: DataRecord, options?: Partial<ExampleOptions>) =>
  (await make(tokenizer, [record], options)).examples[0]!;

test("PEFT's run on E2E: the targets of each step, and of the validation set, are as many as PEFT counted", async () => {
  const tokenizer = await smollm2Tokenizer();
  const golden = smollm2Json<{ supervised_tokens: number[]; val_tokens: number; batch: number }>("targets.json");
  const files = memoryFiles({ "train.jsonl": smollm2File("train.jsonl"), "val.jsonl": smollm2File("val.jsonl") });
  const { examples, report } = await makeExamples(readRecords(files, "train.jsonl"), tokenizer, { maxLength: 512 });
  assert.equal(golden.supervised_tokens.length, 30);
  const steps = golden.supervised_tokens.map((_, step) => examples.slice(step * golden.batch, (step + 1) * golden.batch));
  assert.deepEqual(
    steps.map((rows) => makeBatch(rows, { padId: tokenizer.padId }).feeds["lossRows"]!.data.length),
    golden.supervised_tokens,
  );
  assert.equal(report.count, 240);
  assert.equal(report.truncated + report.dropped, 0);
  assert.equal(
    report.targets,
    golden.supervised_tokens.reduce((a, b) => a + b),
  );
  assert.equal(report.longest, Math.max(...examples.map(({ ids }) => ids.length)));
  const val = await makeExamples(readRecords(files, "val.jsonl"), tokenizer, { maxLength: 512 });
  assert.equal(val.report.targets, golden.val_tokens);
});

test("PEFT's run on E2E: an example is the prompt's ids, then the completion's", async () => {
  const tokenizer = await smollm2Tokenizer();
  const records = smollm2File("train.jsonl")
    .toString()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const { examples } = await make(tokenizer, records);
  for (const [i, { prompt, completion }] of records.entries()) {
    const completionIds = tokenizer.encode(completion);
    assert.deepEqual([...examples[i]!.ids], [...tokenizer.encode(prompt), ...completionIds]);
    assert.deepEqual(targets(examples[i]!), completionIds);
  }
});

test("EOS is appended unless the completion ends with it", async () => {
  const tokenizer = await smollm2Tokenizer();
  const without = await one(tokenizer, { prompt: "Say hi.\n", completion: "Hi" });
  const withIt = await one(tokenizer, { prompt: "Say hi.\n", completion: "Hi<|im_end|>" });
  assert.deepEqual(without, withIt);
  assert.equal(tokenizer.decode(targets(without)), "Hi<|im_end|>");
  assert.equal(tokenizer.decode(targets(await one(tokenizer, { prompt: "a", completion: "" }))), "<|im_end|>");
});

test("a token across prompt and completion is not made: the prompt's ids stay those of generation", async () => {
  const tokenizer = await smollm2Tokenizer();
  const { ids, labels } = await one(tokenizer, { prompt: "Hello wor", completion: "ld" });
  const prompt = tokenizer.encode("Hello wor");
  assert.deepEqual(ids.slice(0, prompt.length), prompt);
  assert.notDeepEqual(ids.slice(0, 2), tokenizer.encode("Hello world"));
  assert.equal(tokenizer.decode(ids), "Hello world<|im_end|>");
  assert.ok(labels.slice(0, prompt.length).every((label) => label === IGNORE));
});

test("trainOn all: every token but the first is a target", async () => {
  const tokenizer = await smollm2Tokenizer();
  const record = { prompt: "Say hi.\n", completion: "Hi" };
  const { ids, labels } = await one(tokenizer, record, { trainOn: "all" });
  assert.deepEqual([...labels], [IGNORE, ...ids.slice(1)]);
});

test("{text}: every token but the first is a target, EOS at the end", async () => {
  const tokenizer = await smollm2Tokenizer();
  const { ids, labels } = await one(tokenizer, { text: "Once upon a time" });
  assert.equal(tokenizer.decode(ids), "Once upon a time<|im_end|>");
  assert.deepEqual([...labels], [IGNORE, ...ids.slice(1)]);
});

test("{messages}: the targets are the assistant's turns; the last with trainOn last, every token with all", async () => {
  const tokenizer = await smollm2Tokenizer();
  const { messages, ids: golden } =
    smollm2Json<{ messages: { role: string; content: string }[]; ids: number[] }[]>("chat.json")[1]!;
  const example = await one(tokenizer, { messages });
  assert.deepEqual([...example.ids], golden, "no special tokens but the template's, and no second EOS");
  assert.equal(tokenizer.decode(targets(example)), "4<|im_end|>6<|im_end|>");
  const last = await one(tokenizer, { messages }, { trainOn: "last" });
  assert.equal(tokenizer.decode(targets(last)), "6<|im_end|>");
  assert.deepEqual([...last.ids], golden);
  const all = await one(tokenizer, { messages }, { trainOn: "all" });
  assert.deepEqual([...all.labels], [IGNORE, ...golden.slice(1)]);
});

test("a BOS comes first, and the completion gets no spurious space", async () => {
  const tokenizer = await loadTokenizer(memoryFiles(llama2StyleFiles()), "base");
  const { ids, labels } = await one(tokenizer, { prompt: "The Punter is", completion: " a coffee shop" });
  assert.deepEqual([...ids], [...tokenizer.encode("The Punter is a coffee shop"), tokenizer.eosId]);
  assert.equal(ids[0], tokenizer.bosId);
  assert.equal(
    labels.findIndex((label) => label !== IGNORE),
    tokenizer.encode("The Punter is").length,
  );
  const text = await one(tokenizer, { text: "cheap" });
  assert.deepEqual([...text.labels], [IGNORE, ...text.ids.slice(1)]);
});

test("truncation is from the right and counted; an example without a target is dropped and counted", async () => {
  const tokenizer = await smollm2Tokenizer();
  const long = "word ".repeat(20);
  const { examples, report } = await make(
    tokenizer,
    [
      { prompt: "a\n", completion: long },
      { prompt: long, completion: "b" },
      { prompt: "c ", completion: "d" },
    ],
    { maxLength: 10 },
  );
  assert.deepEqual(report, {
    count: 2,
    truncated: 2,
    dropped: 1,
    droppedEmpty: 0,
    droppedCut: 1,
    emptyCompletions: 0,
    duplicates: 0,
    tokens: examples.reduce((n, { ids }) => n + ids.length, 0),
    targets: examples.reduce((n, example) => n + targets(example).length, 0),
    longest: 10,
    prompts: { kind: "completion", before: "", after: "" },
  });
  assert.equal(examples[0]!.ids.length, 10);
  assert.deepEqual(examples[0]!.ids, tokenizer.encode(`a\n${long}`).slice(0, 10));
});

test("a dataset without a target, without records or without a template is an error", async () => {
  const tokenizer = await smollm2Tokenizer();
  const records = [{ prompt: "a long prompt of more than two tokens", completion: "b" }];
  await assert.rejects(make(tokenizer, records, { maxLength: 4, source: "d.jsonl" }), (error: LowrankError) => {
    assert.equal(error.code, "data/no-targets");
    assert.equal(error.subject, "d.jsonl");
    assert.match(error.next!, /raise the maximum length/);
    return true;
  });
  const user = [{ messages: [{ role: "user", content: "a" }] }];
  await assert.rejects(make(tokenizer, user), { code: "data/no-targets" });
  await assert.rejects(make(tokenizer, []), { code: "data/empty" });
  await assert.rejects(make(tokenizer, records, { maxLength: 1 }), { code: "data/option", subject: "maxLength" });
  await assert.rejects(make({ ...tokenizer, template: undefined }, user), { code: "data/no-template" });
});

test("what a template refuses names the record's line", async () => {
  const tokenizer = await smollm2Tokenizer();
  const template = { source: "{{ raise_exception('no users') }}", file: "chat_template.jinja", tokens: {} };
  await assert.rejects(make(tokenizer, [{ messages: [{ role: "user", content: "a" }] }], { template, source: "d.jsonl" }), {
    code: "template/refused",
    subject: "d.jsonl, line 1 (chat_template.jinja)",
    message: /no users/,
  });
});
