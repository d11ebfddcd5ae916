// data/readers/parquet.ts on files that pyarrow wrote (scripts/reference/parquet.py), and on such files broken.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readFormats, readRecords } from "../../src/data/readers.ts";
import type { ColumnNames, DataRecord, RecordFormat } from "../../src/data/records.ts";
import type { LowrankError } from "../../src/errors.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";

const fixture = (name: string) => new Uint8Array(readFileSync(`${fixtures}/parquet/${name}.parquet`));

async function read(bytes: Uint8Array, columns?: ColumnNames) {
  const files = memoryFiles({ "d.parquet": bytes });
  const file = readRecords(files, "d.parquet", columns);
  const records: DataRecord[] = [];
  const places: string[] = [];
  for await (const { record, place } of file) {
    records.push(record);
    places.push(place);
  }
  return { records, places, recognized: file.recognized()! };
}

const text = (i: number) => `row ${i} ${"é".repeat(i % 7)}`;
const turns = (i: number) =>
  Array.from({ length: 2 * (i % 3) + 2 }, (_, t) => ({
    role: t % 2 === 0 ? "user" : "assistant",
    content: `${i}.${t} ${"word ".repeat(t * 5)}`,
  }));
const rows = <T>(count: number, row: (i: number) => T) => Array.from({ length: count }, (_, i) => row(i));

test("dictionaries, Snappy, nulls and several row groups", async () => {
  const { records, places, recognized } = await read(fixture("alpaca"));
  const input = (i: number) => (i % 3 === 0 ? "" : `### Input:\nin ${i % 10}\n\n`);
  const wanted = rows(300, (i) => ({
    prompt: `### Instruction:\n${text(i)}\n\n${input(i)}### Response:\n`,
    completion: `out ${i % 5}`,
  }));
  assert.deepEqual(records, wanted);
  assert.deepEqual([places[0], places[299]], ["row 1", "row 300"]);
  assert.deepEqual([recognized.spelling, recognized.ignored], ["Alpaca", ["id"]]);
  assert.deepEqual((await read(fixture("alpaca"), { textColumn: "output" })).records[7], { text: "out 2" });
});

test("lists of messages that go on from page to page, without the parts that are not text: Zstandard, and version 2 with gzip", async () => {
  for (const name of ["messages", "sharegpt-v2"]) {
    const { records } = await read(fixture(name));
    assert.deepEqual(
      records.map((record) => (record as { messages: object[] }).messages.map((turn) => ({ ...turn }))),
      rows(100, turns),
      name,
    );
  }
});

test("plain pages, lengths by delta with Brotli, LZ4", async () => {
  for (const name of ["text", "text-delta", "text-lz4"]) {
    assert.deepEqual(
      (await read(fixture(name))).records,
      rows(300, (i) => ({ text: text(i) })),
      name,
    );
  }
});

test("a column at a time is read in windows, not the file", async () => {
  const files = memoryFiles({ "d.parquet": fixture("alpaca") });
  for await (const _ of readRecords(files, "d.parquet", { textColumn: "output" }));
  assert.ok(files.reads.reduce((sum, { length }) => sum + length, 0) < fixture("alpaca").length);
});

for (const [name, code, pattern] of [
  ["numbers", "data/value", /d\.parquet, column text: [\s\S]*INT64/],
  ["bytes", "data/encoding", /column text: a text is not UTF-8/],
  ["front-coded", "data/parquet", /DELTA_BYTE_ARRAY/],
] as const) {
  test(`${name}: one error that says what it is`, async () => {
    await refused(read(fixture(name)), code, pattern);
  });
}

test("wrong columns are found before any page is read", async () => {
  const files = memoryFiles({ "d.parquet": fixture("alpaca") });
  const all = async () => {
    for await (const _ of readRecords(files, "d.parquet", { textColumn: "body" }));
  };
  await assert.rejects(all, (error: LowrankError) => {
    assert.equal(error.code, "data/keys");
    assert.match(error.describe(), /\{instruction, input, output, id\}/);
    return true;
  });
  assert.equal(files.reads.length, 3, "the beginning, the end, the metadata");
});

test("lists of texts and of whole numbers", async () => {
  const files = memoryFiles({ "d.parquet": fixture("lists") });
  for (const key of ["tags", "small"]) {
    const format: RecordFormat<object> = {
      name: "lists",
      keys: ["tokens", key],
      optional: [],
      make: ({ value }) => ({ tokens: value("tokens"), tags: value(key) }),
    };
    const sought = { candidates: [format], naming: "", pair: ["", ""] as const };
    const got: object[] = [];
    for await (const { record } of readFormats(files, "d.parquet", sought)) got.push(record);
    const wanted = rows(100, (i) => ({ tokens: rows(i % 5, (j) => `word${j}`), tags: rows(i % 5, (j) => (i + j) % 3) }));
    assert.deepEqual(got, wanted);
  }
});
