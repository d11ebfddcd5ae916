// Data files that mean harm, or are broken: each is refused in one error that names the place, and nothing hangs.
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { makeExamples } from "../../src/data/dataset.ts";
import { MAX_RECORD_BYTES, READ_BLOCK_BYTES } from "../../src/data/readers/blocks.ts";
import { MAX_CSV_COLUMNS } from "../../src/data/readers/csv.ts";
import { checkThrift } from "../../src/data/readers/parquet-checks.ts";
import { readRecords } from "../../src/data/readers.ts";
import { assertRefusal, refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";
import { smollm2Tokenizer } from "../helpers/smollm2.ts";

async function read(path: string, content: string | Uint8Array): Promise<number> {
  let count = 0;
  for await (const _ of readRecords(memoryFiles({ [path]: content }), path)) count++;
  return count;
}
const bytes = (...parts: (string | number[])[]) =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === "string" ? [...new TextEncoder().encode(part)] : part)));

const brokenData: [name: string, code: string, line: number, path: string, content: string | Uint8Array][] = [
  ["a list of lists", "data/json", 1, "d.jsonl", '[[{"text":"a"}]]'],
  ["a record over several lines", "data/json", 1, "d.jsonl", '{\n"text":"a"}'],
  ["a comma after a record", "data/json", 1, "d.jsonl", '{"text":"a"},\n{"text":"b"}'],
  ["a line cut off", "data/json", 2, "d.jsonl", '{"text":"a"}\n{"text":"b'],
  ["a bare null", "data/json", 1, "d.jsonl", "null"],
  ["a NUL", "data/encoding", 1, "d.jsonl", "\0"],
  ["a NUL in CSV", "data/encoding", 3, "d.csv", "text\na\n\0\n"],
  ["a NUL in a text", "data/encoding", 2, "d.txt", "a\n\0\n"],
  ["UTF-16 without a mark", "data/encoding", 1, "d.csv", Uint8Array.from([0x74, 0, 0x65, 0, 0x78, 0, 0x74, 0, 0x0a, 0])],
  ["Latin-1 in a text", "data/encoding", 2, "d.md", bytes("a\ncaf", [0xe9], "\n")],
  ["Latin-1 in TSV", "data/encoding", 1, "d.tsv", bytes("text\tcaf", [0xe9], "\n")],
  ["Latin-1 in JSON", "data/encoding", 2, "d.json", bytes('[\n{"text":"caf', [0xe9], '"}]')],
  ["UTF-16", "data/encoding", 1, "d.jsonl", Uint8Array.from([0xff, 0xfe, 0x7b, 0, 0x7d, 0])],
  ["Latin-1 on the third line", "data/encoding", 3, "d.jsonl", bytes('{"text":"é"}\n\n{"text":"caf', [0xe9], '"}\n{"text":"b"}')],
  ["a surrogate in UTF-8", "data/encoding", 1, "d.jsonl", bytes('{"text":"', [0xed, 0xa0, 0x80], '"}')],
  ["a character cut off at the end", "data/encoding", 2, "d.jsonl", bytes('{"text":"a"}\n{"text":"', [0xf0, 0x9f])],
  ["Latin-1 in CSV", "data/encoding", 2, "d.csv", bytes("text\ncaf", [0xe9], "\n")],
  ["__proto__ for a record", "data/keys", 1, "d.jsonl", '{"__proto__":{"text":"a"}}'],
  ["inherited names for keys", "data/keys", 1, "d.jsonl", '{"toString":"a"}'],
  ["a message that is a list", "data/value", 1, "d.jsonl", '{"messages":[[]]}'],
  ["a role that is a number", "data/value", 1, "d.jsonl", '{"messages":[{"role":1,"content":"a"}]}'],
  ["a speaker that is a list", "data/value", 1, "d.jsonl", '{"conversations":[{"from":[],"value":"a"}]}'],
  ["an inherited name for a speaker", "data/value", 1, "d.jsonl", '{"conversations":[{"from":"constructor","value":"a"}]}'],
  ["a system text that is an object", "data/value", 1, "d.jsonl", '{"prompt":"a","completion":"b","system":{}}'],
  ["a number for a completion", "data/value", 1, "d.jsonl", '{"prompt":"a","completion":3}'],
  ["another kind on the second line", "data/mixed", 2, "d.jsonl", '{"text":"a"}\n{"messages":[]}'],
  [
    "another spelling on the second line",
    "data/mixed",
    2,
    "d.jsonl",
    '{"question":"a","answer":"b"}\n{"input":"a","output":"b"}',
  ],
  [
    "a part of a kind that is not known",
    "data/value",
    1,
    "d.jsonl",
    '{"messages":[{"role":"user","content":[{"type":"video"}]}]}',
  ],
  ["a quote in the middle of a field", "data/csv", 3, "d.csv", 'text\na\nb"c\nd\n'],
  ["a quote that is never closed", "data/csv", 4, "d.csv", 'text\r\n"a\r\n"\r\n"b\r\nc\r\n'],
  ["text after a closing quote", "data/csv", 2, "d.csv", 'text\n"a"b\n'],
  ["fields too many", "data/csv", 2, "d.csv", "text\na,b\n"],
  ["fields too few", "data/csv", 3, "d.csv", "text,x\na,b\nc\n"],
  ["a column twice", "data/csv", 1, "d.csv", "text,text\na,b\n"],
  ["columns too many", "data/csv", 1, "d.csv", `${"c,".repeat(MAX_CSV_COLUMNS)}text\n`],
];
const T = '{"text":"a"}';
const brokenJson: [name: string, where: string, content: string][] = [
  ["no comma", "line 2", `[${T}\n${T}]`],
  ["a comma behind the last", "line 1", `[${T},]`],
  ["a comma in front", "line 1", `[,${T}]`],
  ["two commas", "line 1", `[${T},,${T}]`],
  ["a number for a record", "line 2", `[${T},\n3]`],
  ["a text for a record", "line 1", '["a"]'],
  ["a list for a record", "line 1", `[${T},[]]`],
  ["no end", "line 3", `[\n${T},\n${T}`],
  ["something behind the end", "line 2", `[${T}]\n${T}`],
  ["commas between objects", "line 1", `${T},${T}`],
  ["a text alone", "line 1", '"a"'],
  ["the end inside a record", "record 2 (line 2)", `[${T},\n{"text":"a`],
  ["the end inside an escape", "record 1 (line 1)", '[{"text":"a\\'],
  ["a bracket for another", "record 1 (line 1)", '[{"text":["a"}}]'],
  ["no key", "record 2 (line 1)", `[${T},{3}]`],
  ["a line break in a text", "record 1 (line 1)", '[{"text":"a\nb"}]'],
  ["brackets without end", "record 1 (line 1)", `[{"text":${"[".repeat(300_000)}`],
];
for (const [name, where, content] of brokenJson) {
  test(`data: JSON with ${name}`, async () => {
    await refused(read("d.json", content), "data/json", { subject: `d.json, ${where}` });
  });
}

const takenForData: [what: RegExp, path: string, content: Uint8Array][] = [
  [/gzip/, "d.jsonl", bytes([0x1f, 0x8b, 8, 0])],
  [/zstd/, "d.jsonl", bytes([0x28, 0xb5, 0x2f, 0xfd])],
  [/zip file/, "d.csv", bytes("PK", [3, 4])],
  [/Git LFS/, "d.parquet", bytes("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")],
  [/web page/, "d.json", bytes("<!DOCTYPE html><html>")],
];
for (const [what, path, content] of takenForData) {
  test(`data: ${what.source} named ${path}`, async () => {
    await refused(read(path, content), "data/format", { subject: /./, text: what });
  });
}

test("data: lines that end with carriage returns alone", async () => {
  await refused(read("d.csv", "text,x\ra,b\rc,d\r"), "data/csv", { subject: /./, text: /tr '\\r' '\\n'/ });
  await refused(read("d.jsonl", `${T}\r${T}`), "data/json", { subject: /./ });
});

const parquet = (name: string) => new Uint8Array(readFileSync(`${fixtures}/parquet/${name}.parquet`));
const changed = (name: string, change: (file: Uint8Array, view: DataView) => Uint8Array | undefined) => {
  const file = parquet(name);
  return change(file, new DataView(file.buffer, file.byteOffset, file.byteLength)) ?? file;
};
const footerOf = (view: DataView) => view.byteLength - 8 - view.getUint32(view.byteLength - 8, true);
const brokenParquet: [name: string, file: Uint8Array, pattern?: RegExp][] = [
  ["empty", bytes(), /0 bytes/],
  ["only its beginning", bytes("PAR1"), /4 bytes/],
  ["cut off", parquet("text").slice(0, 3000), /no PAR1 at its end/],
  ["encrypted", changed("text", (file) => file.fill(0x45, file.length - 1)), /encrypted/],
  [
    "metadata longer than the file",
    changed("text", (file, view) => view.setUint32(file.length - 8, 0xffffffff, true) as undefined),
    /metadata of 4294967295 bytes/,
  ],
  ["metadata of nothing", changed("text", (file, view) => view.setUint32(file.length - 8, 0, true) as undefined)],
  ["metadata of zeros", changed("text", (file, view) => file.fill(0, footerOf(view), file.length - 8))],
  ["metadata of ones", changed("text", (file, view) => file.fill(0xff, footerOf(view), file.length - 8))],
  ["pages of zeros", changed("alpaca", (file) => file.fill(0, 4, 1500))],
  ["pages of ones", changed("alpaca", (file) => file.fill(0xff, 4, 1500))],
  ["a page that is packed wrongly", changed("messages", (file) => file.fill(0x55, 60, 120))],
];
for (const [name, file, pattern] of brokenParquet) {
  test(`data: Parquet, ${name}`, async () => {
    await refused(read("d.parquet", file), "data/parquet", { subject: /./, text: pattern });
  });
}

test("data: Parquet with any byte changed is read or refused", async () => {
  const codes = new Set<string>();
  for (const name of ["alpaca", "messages", "sharegpt-v2", "text-delta"]) {
    const file = parquet(name);
    for (let at = 0; at < file.length; at += 397) {
      for (const byte of [0, 0x7f]) {
        const copy = file.slice();
        copy[at] = byte;
        await read("d.parquet", copy).catch((error) => codes.add(assertRefusal(error, /^data\//, { subject: /./ }).code));
      }
    }
  }
  assert.ok(codes.has("data/parquet"));
});

test("data: metadata of Parquet that lists, nests or counts without end", () => {
  const cases: [RegExp, number[]][] = [
    [/list of 4294967295/, [0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00]],
    [/part of 4294967295 bytes/, [0x18, 0xff, 0xff, 0xff, 0xff, 0x0f]],
    [/nests too deep/, Array.from({ length: 100_000 }, () => 0x1c)],
    [/number .* does not end/, [0x15, ...Array.from({ length: 100_000 }, () => 0xff)]],
    [/ends too early/, [0x15, 0x02]],
    [/type 13/, [0x1d, 0]],
  ];
  for (const [pattern, given] of cases) assert.throws(() => checkThrift(Uint8Array.from(given), 0), pattern);
  assert.equal(checkThrift(Uint8Array.from([0x15, 0x02, 0x19, 0x25, 0x02, 0x04, 0x00, 0x77]), 0), 7);
});

for (const [name, code, line, path, content] of brokenData) {
  test(`data: ${name}`, async () => {
    await refused(read(path, content), code, { subject: `${path}, line ${line}` });
  });
}

test("data: a line without end is refused before it is read whole", async () => {
  for (const [path, start, where] of [
    ["d.jsonl", '{"text":"a"}\n{"text":"', "line 2"],
    ["d.csv", 'text\n"', "line 2"],
    ["d.tsv", 'text\tx\n"', "line 2"],
    ["d.json", '[{"text":"a"},\n{"text":"', "record 2 (line 2)"],
    ["d.txt", "a\n", "line 2"],
  ] as const) {
    const size = 10 * MAX_RECORD_BYTES;
    const first = bytes(start);
    const reads: number[] = [];
    const files = {
      ...memoryFiles(),
      size: async () => size,
      read: async (_: string, offset: number, length: number) => {
        reads.push(length);
        const block = new Uint8Array(length).fill(0x61);
        if (offset === 0) block.set(first);
        return block;
      },
    };
    const all = async () => {
      for await (const _ of readRecords(files, path));
    };
    await refused(all, "data/too-long", { subject: `${path}, ${where}` });
    assert.ok(reads.length > 1 && reads.length <= MAX_RECORD_BYTES / READ_BLOCK_BYTES + 3);
  }
});

test("data: the longest record allowed is read, one a block longer is not", async () => {
  const around = '{"text":""}'.length;
  const record = (length: number) => `{"text":"${"a".repeat(length - around)}"}`;
  assert.equal(await read("d.jsonl", `${record(MAX_RECORD_BYTES)}\n${record(20)}\n`), 2);
  await refused(
    read("d.jsonl", `${record(20)}\n${record(MAX_RECORD_BYTES + READ_BLOCK_BYTES + 1)}\n${record(20)}`),
    "data/too-long",
    /^d\.jsonl, line 2:/,
  );
});

test("data: an empty file gives no records, and that is an error of the dataset", async () => {
  for (const [path, content] of [
    ["d.jsonl", ""],
    ["d.jsonl", "\uFEFF\n\r\n"],
    ["d.csv", ""],
    ["d.csv", "text\n"],
    ["d.tsv", "text\n"],
    ["d.json", ""],
    ["d.json", "[]"],
    ["d.json", " [ \n ] \n"],
    ["d.txt", "\uFEFF \n\n"],
    ["d.md", ""],
  ] as const) {
    assert.equal(await read(path, content), 0);
    const records = readRecords(memoryFiles({ [path]: content }), path);
    const tokenizer = await smollm2Tokenizer();
    await refused(makeExamples(records, tokenizer, { maxLength: 8, source: path }), "data/empty", { subject: /./ });
  }
});
