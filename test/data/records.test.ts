// data/records.ts: the spellings of records in public data sets, and what each becomes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { readRecords } from "../../src/data/readers.ts";
import { type ColumnNames, type DataRecord, recordFormats } from "../../src/data/records.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

async function read(rows: unknown[], columns?: ColumnNames) {
  const file = readRecords(memoryFiles({ "d.jsonl": rows.map((row) => JSON.stringify(row)).join("\n") }), "d.jsonl", columns);
  const records: DataRecord[] = [];
  for await (const { record } of file) records.push(record);
  return { records, name: file.recognized()!.spelling };
}

const user = { role: "user", content: "q" };
const assistant = { role: "assistant", content: "a" };
const system = { role: "system", content: "s" };

const cases: [spelling: string, row: object, record: DataRecord][] = [
  ["OpenAI messages", { messages: [user, assistant] }, { messages: [user, assistant] }],
  ["OpenAI messages", { messages: [user, assistant], system: "s" }, { messages: [system, user, assistant] }],
  ["OpenAI messages", { messages: [system, user, assistant], system: "other" }, { messages: [system, user, assistant] }],
  ["OpenAI messages", { messages: [{ from: "human", value: "q" }] }, { messages: [user] }],
  [
    "ShareGPT",
    {
      conversations: [
        { from: "system", value: "s" },
        { from: "human", value: "q" },
        { from: "gpt", value: "a" },
      ],
    },
    { messages: [system, user, assistant] },
  ],
  ["ShareGPT", { conversations: [user, assistant], system: "s" }, { messages: [system, user, assistant] }],
  ["ShareGPT", { conversations: [{ from: "observation", value: "1" }] }, { messages: [{ role: "tool", content: "1" }] }],
  [
    "Alpaca",
    { instruction: "i", input: "x", output: "o" },
    { prompt: "### Instruction:\ni\n\n### Input:\nx\n\n### Response:\n", completion: "o" },
  ],
  ["Alpaca", { instruction: "i", input: "", output: "o" }, { prompt: "### Instruction:\ni\n\n### Response:\n", completion: "o" }],
  [
    "Alpaca",
    { instruction: "i", input: null, output: "o", system: "s", text: "all of it" },
    { prompt: "s\n\n### Instruction:\ni\n\n### Response:\n", completion: "o" },
  ],
  [
    "Dolly",
    { instruction: "i", context: "c", response: "r", category: "qa" },
    { prompt: "### Instruction:\ni\n\n### Input:\nc\n\n### Response:\n", completion: "r" },
  ],
  ["prompt and completion", { prompt: "p", completion: "c" }, { prompt: "p", completion: "c" }],
  ["prompt and completion", { prompt: "p", completion: "c", system: "s" }, { prompt: "s\n\np", completion: "c" }],
  ["prompt and completion", { prompt: "p", completion: "c", messages: null }, { prompt: "p", completion: "c" }],
  ["prompt and response", { prompt: "p", response: "r" }, { prompt: "p", completion: "r" }],
  ["question and answer", { question: "q", answer: "a" }, { prompt: "Question: q\nAnswer:", completion: " a" }],
  [
    "question and response",
    { id: "1", system_prompt: "s", question: "q", response: "r" },
    { prompt: "s\n\nQuestion: q\nAnswer:", completion: " r" },
  ],
  ["input and output", { input: "i", output: "o" }, { prompt: "i\n", completion: "o" }],
  ["text", { text: "t", url: "u" }, { text: "t" }],
];
for (const [spelling, row, record] of cases) {
  test(`${spelling}: ${JSON.stringify(row)}`, async () => {
    assert.deepEqual(await read([row]), { records: [record], name: spelling });
  });
}

test("every spelling of the table has a case", () => {
  assert.deepEqual(
    recordFormats.map(({ name }) => name).filter((name) => !cases.some(([spelling]) => spelling === name)),
    [],
  );
});

test("columns that are named win over every spelling", async () => {
  const row = { instruction: "i", input: "x", output: "o", completion: "c", text: "t" };
  assert.deepEqual((await read([row], { promptColumn: "input" })).records, [{ prompt: "x", completion: "c" }]);
  assert.deepEqual((await read([row], { promptColumn: "input", completionColumn: "output" })).records, [
    { prompt: "x", completion: "o" },
  ]);
  assert.deepEqual((await read([row], { textColumn: "output" })).records, [{ text: "o" }]);
});

test("records with and without what is optional are of one kind", async () => {
  const { records } = await read([
    { instruction: "a", output: "b" },
    { instruction: "a", input: "c", output: "b" },
  ]);
  assert.equal(records.length, 2);
});

test("a speaker that is not known is named", async () => {
  await refused(
    read([{ conversations: [{ from: "narrator", value: "x" }] }]),
    "data/value",
    /d\.jsonl, line 1: conversations\[0\]\.from[\s\S]*human, user[\s\S]*"narrator"/,
  );
});
