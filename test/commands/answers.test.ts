// Exact answers: an adapter that has learned a few answers by heart gives them, its base does not.
// slow
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { isMatch } from "../../src/commands/eval/answers.ts";
import { type AnswerOptions, answers, finetune } from "../../src/index.ts";
import { collect } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = "test/fixtures/tiny-llama";
const root = temporaryFolder();
const threads = 1;

/** A data file of `records`. */
function write(name: string, records: readonly object[]): string {
  const file = path.join(root, name);
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return file;
}

const chat = (question: string, answer: string) => ({
  messages: [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ],
});

test("what was learned by heart is answered exactly, batch by batch, and nothing else counts", async () => {
  const known = [chat("The Eagle?", "a pub"), chat("The Mill?", "an Italian restaurant"), chat("Cocum?", "a pub")];
  const output = path.join(root, "adapter");
  const run = finetune({ base, data: write("train.jsonl", known), output, steps: 60, learningRate: 2e-2, rank: 16, threads });
  for await (const _ of run);
  const data = write("asked.jsonl", [...known, chat("Cocum?", "A pub")]);
  const events = await collect(answers({ base, adapter: output, data, batchSize: 3, threads }));
  const given = events.filter((event) => event.type === "answer");
  assert.deepEqual(
    given.map(({ adapter }) => adapter),
    ["a pub", "an Italian restaurant", "a pub", "a pub"],
  );
  assert.deepEqual(given[1]?.prompt, [{ role: "user", content: "The Mill?" }]);
  assert.deepEqual(events.at(-1), { type: "matches", count: 4, base: 0, adapter: 3 });
});

test("a prompt and its completion; only as many records as asked for; no adapter", async () => {
  const rows = readFileSync("test/fixtures/tiny-e2e/eval.jsonl", "utf8").trim().split("\n");
  const events = await collect(answers({ base, data: "test/fixtures/tiny-e2e/eval.jsonl", limit: 3, threads }));
  assert.deepEqual(
    events.map((event) => event.type),
    ["answer", "answer", "answer", "matches"],
  );
  const { prompt, completion } = JSON.parse(rows[2]!);
  const third = events[2]!;
  assert.ok(third.type === "answer" && third.adapter === null && third.place === "line 3");
  assert.deepEqual([third.prompt, third.expected], [prompt, completion]);
  assert.deepEqual(events.at(-1), { type: "matches", count: 3, base: 0, adapter: null });
});

test("white space around an answer does not count, inside it does", () => {
  assert.ok(isMatch(" a pub\n", { expected: "a pub" }));
  assert.ok(!isMatch("a  pub", { expected: "a pub" }));
});

test("records without an answer and numbers that count nothing are refused", async () => {
  const last = { messages: [{ role: "user", content: "The Eagle?" }] };
  const cases: [object, string][] = [
    [{ data: write("text.jsonl", [{ text: "The Eagle" }]) }, "data/no-answer"],
    [{ data: write("last.jsonl", [last]) }, "data/no-answer"],
    [{ data: write("empty.jsonl", []) }, "data/empty"],
    [{ data: write("one.jsonl", [chat("a", "b")]), batchSize: 0 }, "eval/option"],
    [{ data: write("one.jsonl", [chat("a", "b")]), limit: 0.5 }, "eval/option"],
  ];
  for (const [options, code] of cases) {
    await assert.rejects(collect(answers({ base, threads, ...options } as AnswerOptions)), { code });
  }
});
