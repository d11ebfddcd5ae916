// data/readers.ts: every kind of record from JSONL and CSV, in blocks, with line numbers.
import assert from "node:assert/strict";
import { test } from "node:test";
import { READ_BLOCK_BYTES, type ReadOptions, readRecords } from "../../src/data/readers.ts";
import { LowrankError as Failure, type LowrankError } from "../../src/errors.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

async function readAll(path: string, content: string | Uint8Array, options?: ReadOptions) {
  const found = [];
  for await (const numbered of readRecords(memoryFiles({ [path]: content }), path, options)) found.push(numbered);
  return found;
}

const rejects = (
  path: string,
  content: string | Uint8Array,
  code: string,
  line: number,
  pattern: RegExp,
  options?: ReadOptions,
) =>
  assert.rejects(readAll(path, content, options), (error: LowrankError) => {
    assert.ok(error instanceof Failure);
    assert.equal(error.code, code);
    assert.ok(error.subject!.endsWith(`, line ${line}`), error.subject);
    assert.match(error.describe(), pattern);
    assert.ok(error.next);
    return true;
  });

test("JSONL: byte order mark, CRLF, blank lines and a last line without an end", async () => {
  const content = '\uFEFF{"prompt":"a","completion":"b","id":7}\r\n\r\n  \n{"prompt":"\\u00e9","completion":"\\n"}';
  assert.deepEqual(await readAll("d.jsonl", content), [
    { record: { prompt: "a", completion: "b" }, line: 1 },
    { record: { prompt: "é", completion: "\n" }, line: 4 },
  ]);
});

test("JSONL: texts, conversations and columns of other names", async () => {
  assert.deepEqual(await readAll("d.ndjson", '{"text":"x"}'), [{ record: { text: "x" }, line: 1 }]);
  const messages = [
    { role: "user", content: "q", name: "n" },
    { role: "assistant", content: "" },
  ];
  assert.deepEqual(await readAll("d.jsonl", JSON.stringify({ messages })), [{ record: { messages }, line: 1 }]);
  const renamed = await readAll("d.jsonl", '{"q":"a","r":"b"}', { promptColumn: "q", completionColumn: "r" });
  assert.deepEqual(renamed, [{ record: { prompt: "a", completion: "b" }, line: 1 }]);
});

test("CSV: quotes, commas, line breaks of both kinds, blank lines, columns in any order", async () => {
  const content = '\uFEFFcompletion,x,prompt\r\n"b, ""c""",1,a\r\n"two\r\n\r\nlines",2,"d\n"\r\n\r\n\nlast,,é';
  assert.deepEqual(await readAll("d.csv", content), [
    { record: { prompt: "a", completion: 'b, "c"' }, line: 2 },
    { record: { prompt: "d\n", completion: "two\r\n\r\nlines" }, line: 3 },
    { record: { prompt: "é", completion: "last" }, line: 9 },
  ]);
  assert.deepEqual(await readAll("D.CSV", "body\nx\n", { textColumn: "body" }), [{ record: { text: "x" }, line: 2 }]);
  assert.deepEqual(await readAll("d.csv", "text\n"), []);
});

test("files of several blocks are read a block at a time, and records lie across the borders", async () => {
  const text = "é".repeat(700);
  const rows = Array.from({ length: 2000 }, (_, i) => `${i} ${text}`);
  const cases: [string, string, number][] = [
    ["d.jsonl", rows.map((row) => `${JSON.stringify({ text: row })}\n`).join(""), 1],
    ["d.csv", `text\n${rows.map((row) => `"${row}\n""q"""\n`).join("")}`, 2],
  ];
  for (const [path, content, lines] of cases) {
    const files = memoryFiles({ [path]: content });
    let i = 0;
    for await (const { record, line } of readRecords(files, path)) {
      assert.equal((record as { text: string }).text, lines === 1 ? rows[i] : `${rows[i]}\n"q"`);
      assert.equal(line, lines * i + lines);
      i++;
    }
    assert.equal(i, rows.length);
    assert.ok(files.reads.length >= 3);
    assert.ok(files.reads.every(({ length }) => length <= READ_BLOCK_BYTES));
  }
});

test("wrong keys name the line, the keys found and the kinds", async () => {
  await rejects(
    "d.jsonl",
    '{"text":"a"}\n{"prompt":"a","answer":"b"}',
    "data/keys",
    2,
    /\{prompt, answer\}[\s\S]*completion may be "answer"/,
  );
  await rejects("d.jsonl", "{}", "data/keys", 1, /\{prompt, completion\}, \{messages\}, \{text\}\n {2}found: {4}no keys/);
  await rejects("d.jsonl", '{"text":"a","messages":[]}', "data/keys", 1, /several kinds/);
  await rejects("d.csv", "a,b\n1,2\n", "data/keys", 2, /\{a, b\}/);
});

test("mixed kinds name the first line that differs", async () => {
  const content = '{"text":"a"}\n{"text":"b"}\n\n{"prompt":"a","completion":"b"}\n{"messages":[]}';
  await rejects("d.jsonl", content, "data/mixed", 4, /\{text\}, as on line 1[\s\S]*\{prompt, completion\}/);
});

test("values of a wrong type name the place", async () => {
  await rejects("d.jsonl", '{"prompt":"a","completion":null}', "data/value", 1, /completion cannot be used[\s\S]*null/);
  await rejects("d.jsonl", '{"messages":[]}', "data/value", 1, /an empty list/);
  await rejects("d.jsonl", '{"messages":["hi"]}', "data/value", 1, /messages\[0\] cannot[\s\S]*a string/);
  await rejects(
    "d.jsonl",
    '{"messages":[{"role":"user","content":"a"},{"role":"x"}]}',
    "data/value",
    1,
    /messages\[1\]\.content[\s\S]*nothing/,
  );
});

test("a name that says no known format is refused", async () => {
  await assert.rejects(readAll("d.parquet", ""), { code: "data/format", got: "d.parquet" });
});
