// data/readers.ts: every kind of record from JSON lines, JSON and CSV, in blocks, with the place of each.
import assert from "node:assert/strict";
import { test } from "node:test";
import { READ_BLOCK_BYTES } from "../../src/data/readers/blocks.ts";
import { readRecords } from "../../src/data/readers.ts";
import type { ColumnNames } from "../../src/data/records.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

async function readAll(path: string, content: string | Uint8Array, options?: ColumnNames) {
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
  options?: ColumnNames,
) => refused(readAll(path, content, options), code, { subject: new RegExp(`, line ${line}$`), text: pattern });

test("JSONL: byte order mark, CRLF, blank lines and a last line without an end", async () => {
  const content = '\uFEFF{"prompt":"a","completion":"b","id":7}\r\n\r\n  \n{"prompt":"\\u00e9","completion":"\\n"}';
  assert.deepEqual(await readAll("d.jsonl", content), [
    { record: { prompt: "a", completion: "b" }, place: "line 1" },
    { record: { prompt: "é", completion: "\n" }, place: "line 4" },
  ]);
});

test("JSONL: texts, conversations and columns of other names", async () => {
  assert.deepEqual(await readAll("d.ndjson", '{"text":"x"}'), [{ record: { text: "x" }, place: "line 1" }]);
  const messages = [
    { role: "user", content: "q", name: "n" },
    { role: "assistant", content: "" },
  ];
  assert.deepEqual(await readAll("d.jsonl", JSON.stringify({ messages })), [{ record: { messages }, place: "line 1" }]);
  const renamed = await readAll("d.jsonl", '{"q":"a","r":"b"}', { promptColumn: "q", completionColumn: "r" });
  assert.deepEqual(renamed, [{ record: { prompt: "a", completion: "b" }, place: "line 1" }]);
});

test("CSV: quotes, commas, line breaks of both kinds, blank lines, columns in any order", async () => {
  const content = '\uFEFFcompletion,x,prompt\r\n"b, ""c""",1,a\r\n"two\r\n\r\nlines",2,"d\n"\r\n\r\n\nlast,,é';
  assert.deepEqual(await readAll("d.csv", content), [
    { record: { prompt: "a", completion: 'b, "c"' }, place: "line 2" },
    { record: { prompt: "d\n", completion: "two\r\n\r\nlines" }, place: "line 3" },
    { record: { prompt: "é", completion: "last" }, place: "line 9" },
  ]);
  assert.deepEqual(await readAll("D.CSV", "body\nx\n", { textColumn: "body" }), [{ record: { text: "x" }, place: "line 2" }]);
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
    for await (const { record, place } of readRecords(files, path)) {
      assert.equal((record as { text: string }).text, lines === 1 ? rows[i] : `${rows[i]}\n"q"`);
      assert.equal(place, `line ${lines * i + lines}`);
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
    '{"text":"a"}\n{"prompt":"a","anser":"b"}',
    "data/keys",
    2,
    /\{prompt, anser\}[\s\S]*completion may be "anser"/,
  );
  await rejects(
    "d.jsonl",
    "{}",
    "data/keys",
    1,
    /\{messages\}, \{conversations\}, \{instruction, output\}[\s\S]*found: {4}no keys/,
  );
  await rejects(
    "d.csv",
    "a,b\n1,2\n",
    "data/keys",
    2,
    /\{a, b\}\n {2}next: .*--prompt-column with --completion-column, or --text-column/,
  );
  await rejects("d.jsonl", '{"prompt":"a","completion":"b","messages":[]}', "data/keys", 1, /several formats/);
  await rejects("d.jsonl", '{"text":"a"}', "data/keys", 1, /one of \{body\}/, { textColumn: "body" });
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

test("a name without a known format is recognized by its content, or refused", async () => {
  await assert.rejects(readAll("d.xyz", "abc"), { code: "data/format", got: "d.xyz" });
  await assert.rejects(readAll("data", ""), { code: "data/format", got: "data" });
  assert.equal((await readAll("data", '\uFEFF {"text":"a"}\n')).length, 1);
  assert.equal((await readAll("data", ' [{"text":"a"},{"text":"b"}]')).length, 2);
});

test("JSON: a list of objects, objects one after another, brackets and quotes inside texts", async () => {
  const texts = ["a", '"]},{[', "\\", "é\n", ""];
  const rows = texts.map((text) => ({ text, nested: { list: [{}, "}"] } }));
  const wanted = (i: number, line: number) => ({ record: { text: texts[i] }, place: `record ${i + 1} (line ${line})` });
  const all = (line: (i: number) => number) => texts.map((_, i) => wanted(i, line(i)));
  assert.deepEqual(
    await readAll("d.json", `\uFEFF\r\n${JSON.stringify(rows)}\n`),
    all(() => 2),
  );
  const width = JSON.stringify(rows[0], null, 2).split("\n").length;
  assert.deepEqual(
    await readAll("d.json", JSON.stringify(rows, null, 2)),
    all((i) => 2 + width * i),
  );
  assert.deepEqual(
    await readAll("d.json", rows.map((row) => JSON.stringify(row)).join("\n")),
    all((i) => i + 1),
  );
  assert.deepEqual(await readAll("d.json", "[]"), []);
  assert.deepEqual(await readAll("d.json", ""), []);
});

test("JSON: a list longer than a block is read a block at a time", async () => {
  const rows = Array.from({ length: 3000 }, (_, i) => ({ text: `${i} ${'é\\"'.repeat(300)}` }));
  const files = memoryFiles({ "d.json": JSON.stringify(rows, null, 1) });
  let i = 0;
  for await (const { record } of readRecords(files, "d.json")) assert.deepEqual(record, rows[i++]);
  assert.equal(i, rows.length);
  assert.ok(files.reads.length >= 4 && files.reads.every(({ length }) => length <= READ_BLOCK_BYTES));
});

test("the content counts where the name lies", async () => {
  for (const name of ["d.jsonl", "d.csv", "d.tsv"])
    assert.deepEqual((await readAll(name, '[{"text":"a"}]'))[0]!.record, { text: "a" });
  for (const name of ["d.json", "d.csv", "d.parquet"])
    assert.deepEqual((await readAll(name, '{"text":"a"}\n{"text":"b"}'))[1]!.record, { text: "b" });
  assert.deepEqual(await readAll("d.csv", '"[a","text"\n1,b\n'), [{ record: { text: "b" }, place: "line 2" }]);
});

test("TSV, and CSV with semicolons: the first line says what is between fields", async () => {
  const wanted = [{ record: { prompt: "a, b", completion: "c;d" }, place: "line 2" }];
  assert.deepEqual(await readAll("d.tsv", "prompt\tcompletion\r\na, b\tc;d\r\n"), wanted);
  assert.deepEqual(await readAll("d.tab", "prompt\tcompletion\na, b\tc;d"), wanted);
  assert.deepEqual(await readAll("d.csv", 'prompt\tcompletion\n"a, b"\tc;d\n'), wanted);
  assert.deepEqual(await readAll("d.csv", 'prompt;completion\n"a, b";"c;d"\n'), wanted);
  assert.deepEqual(await readAll("d.tsv", 'prompt,completion\n"a, b",c;d\n'), wanted);
  assert.deepEqual(await readAll("d.csv", '"a;b","text"\n1,x\n'), [{ record: { text: "x" }, place: "line 2" }]);
});

test("the report has the recognized format of a file", async () => {
  const file = readRecords(memoryFiles({ "f/d.csv": "id,instruction,output,note\n1,a,b,c\n" }), "f/d.csv");
  assert.equal(file.recognized(), null);
  for await (const _ of file);
  const names = { used: ["instruction", "output"], ignored: ["id", "note"] };
  assert.deepEqual(file.recognized(), { path: "f/d.csv", format: "CSV", spelling: "Alpaca", ...names });
  assert.deepEqual(file.progress(), { bytes: 35, size: 35 });
});
