// Hostile and odd data files.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { MAX_RECORD_BYTES } from "../../../src/data/readers/blocks.ts";
import { type Case, examplesOf, filesWith, goodData, type Place } from "../../helpers/hostile.ts";
import { fixtures } from "../../helpers/repository.ts";

const row = JSON.stringify({ prompt: "name[The Eagle]\n", completion: "The Eagle serves food." });
const rows = `${row}\n`.repeat(3);
const bytes = (...parts: (string | number[])[]) =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === "string" ? [...new TextEncoder().encode(part)] : part)));

/** A data file of this content. */
const content =
  (text: string | Uint8Array, name = "data.jsonl") =>
  (place: Place) =>
    place.train({ data: place.file(name, text) });
/** …that gives so many examples. */
const gives =
  (count: number, text: string | Uint8Array, name = "data.jsonl") =>
  async (place: Place) =>
    assert.equal(examplesOf(await content(text, name)(place)), count);

const goodParquet = new Uint8Array(readFileSync(`${fixtures}/parquet/text.parquet`));
/** The four bytes before the last mark are the length of the footer. */
const longFooter = () => {
  const file = goodParquet.slice();
  new DataView(file.buffer).setUint32(file.length - 8, 0xffff_fff0, true);
  return file;
};

const chat = (messages: object[]) => `${JSON.stringify({ messages })}\n`;
const megabytes = 50;

export const dataCases: Case[] = [
  { name: "an empty file", ends: "data/empty", message: /data\.jsonl/, work: content("") },
  { name: "an empty CSV file", ends: "data/empty", work: content("", "data.csv") },
  { name: "blank lines alone", ends: "data/empty", work: content("\n\r\n  \n") },
  { name: "a byte order mark alone", ends: "data/empty", work: content("\uFEFF") },
  { name: "a byte order mark in front", ends: "accepted", work: gives(3, `\uFEFF${rows}`) },
  { name: "CRLF", ends: "accepted", work: gives(3, rows.replaceAll("\n", "\r\n")) },
  {
    name: "CRLF, a byte order mark and quotes in CSV",
    ends: "accepted",
    work: gives(2, '\uFEFFprompt,completion\r\na,"b\r\n""c"""\r\nd,e\r\n', "data.csv"),
  },
  { name: "no line break at the end", ends: "accepted", work: gives(3, rows.trimEnd()) },
  {
    name: "line separators of Unicode inside a text",
    ends: "accepted",
    work: gives(1, JSON.stringify({ text: "a\u2028b\u2029c\u0085d" })),
  },
  { name: "NUL bytes", ends: "data/encoding", message: /line 4/, work: content(`${rows}${"\0".repeat(4096)}`) },
  { name: "NUL as an escape inside a text", ends: "accepted", work: gives(1, '{"text":"a\\u0000b"}') },
  { name: "a lone surrogate as an escape", ends: "accepted", work: gives(1, '{"text":"a\\ud800b"}') },
  {
    name: `a line of ${megabytes} MB`,
    ends: "data/too-long",
    message: new RegExp(`line 4[\\s\\S]*${MAX_RECORD_BYTES}`),
    work: content(`${rows}{"text":"${"a".repeat(megabytes << 20)}"}\n`),
  },
  {
    name: `a quote in CSV that is open for ${megabytes} MB`,
    ends: "data/too-long",
    message: /line 2/,
    work: content(`text\n"${"a\n".repeat(megabytes << 19)}`, "data.csv"),
  },
  {
    name: "broken UTF-8",
    ends: "data/encoding",
    message: /line 4[\s\S]*iconv/,
    work: content(bytes(rows, '{"text":"caf', [0xe9], '"}')),
  },
  { name: "UTF-16", ends: "data/encoding", work: content(Uint8Array.from(Buffer.from(`\uFEFF${rows}`, "utf16le"))) },
  {
    name: "a gzip file",
    ends: "data/format",
    message: /gunzip/,
    work: content(Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3)),
  },
  { name: "wrong keys", ends: "data/keys", message: /question, reply/, work: content('{"question":"a","reply":"b"}\n') },
  {
    name: "keys of two kinds, of which the prompt counts",
    ends: "accepted",
    work: content('{"prompt":"a","completion":"b","text":"c"}\n'),
  },
  { name: "mixed kinds", ends: "data/mixed", message: /line 4/, work: content(`${rows}{"text":"a"}\n`) },
  { name: "a list of records on one line", ends: "accepted", work: gives(2, `[${row},${row}]`) },
  { name: "a list of records that is cut off", ends: "data/json", work: content(`[${row},${row}`) },
  { name: "a list in a list", ends: "data/json", work: content(`[[${row}]]`, "data.json") },
  { name: "a list of a list without end", ends: "data/json", work: content("[".repeat(1_000_000), "data.json") },
  { name: "Parquet cut off", ends: "data/parquet", work: content(goodParquet.slice(0, -100), "data.parquet") },
  { name: "Parquet of its first bytes alone", ends: "data/parquet", work: content("PAR1", "data.parquet") },
  { name: "Parquet whose footer lies about its length", ends: "data/parquet", work: content(longFooter(), "data.parquet") },
  { name: "a text in place of Parquet", ends: "data/parquet", work: content("hello", "data.parquet") },
  { name: "a record over several lines", ends: "data/json", work: content(JSON.stringify(JSON.parse(row), null, 2)) },
  { name: "a number for a text", ends: "data/value", message: /completion/, work: content('{"prompt":"a","completion":7}\n') },
  { name: "null for a text", ends: "data/value", work: content('{"text":null}\n') },
  { name: "__proto__ for the keys", ends: "data/keys", work: content('{"__proto__":{"text":"a","polluted":1}}\n') },
  { name: "a key twice, of which the last counts", ends: "accepted", work: gives(1, '{"text":"a","text":"b"}\n') },
  { name: "nesting without end", ends: "data/value", work: content(`{"text":${"[".repeat(200_000)}${"]".repeat(200_000)}}\n`) },
  {
    name: "a hundred thousand keys",
    ends: "data/keys",
    work: content(`{${Array.from({ length: 1e5 }, (_, i) => `"${i}":0`).join()}}`),
  },
  { name: "a column twice", ends: "data/csv", work: content("text,text\na,b\n", "data.csv") },
  {
    name: "a CSV record with too many fields",
    ends: "data/csv",
    message: /line 3/,
    work: content("prompt,completion\na,b\na,b,c\n", "data.csv"),
  },
  {
    name: "completions of no length, which leave the end of the text to learn",
    ends: "accepted",
    work: gives(2, '{"prompt":"a","completion":""}\n'.repeat(2)),
  },
  { name: "texts of no length", ends: "data/no-targets", work: content('{"text":""}\n'.repeat(2)) },
  {
    name: "prompts that leave no room for a completion",
    ends: "data/no-targets",
    message: /3 records/,
    work: (place) => place.train({ data: place.file("data.jsonl", rows), maxLength: 2 }),
  },
  { name: "a single example", ends: "accepted", work: gives(1, row) },
  { name: "a batch larger than the data", ends: "accepted", work: (place) => place.train({ batchSize: 1e9 }) },
  {
    name: "more micro-batches than there are examples",
    ends: "accepted",
    work: (place) => place.train({ gradientAccumulation: 1e9 }),
  },
  {
    name: "conversations for a base without a template",
    ends: "data/no-template",
    work: (place) =>
      place.train({
        base: place.base({ "tokenizer_config.json": (json) => ({ ...json, chat_template: null }) }),
        data: place.file("d.jsonl", chat([{ role: "assistant", content: "a" }])),
      }),
  },
  { name: "a conversation without messages", ends: "data/value", work: content(chat([])) },
  { name: "a message that is no object", ends: "data/value", work: content('{"messages":["a"]}\n') },
  {
    name: "a kind of file that is not known",
    ends: "data/format",
    message: /data\.xlsx/,
    work: content("PK\x03\x04", "data.xlsx"),
  },
  {
    name: "no such file",
    ends: "file/missing",
    message: /none\.jsonl/,
    work: (place) => place.train({ data: place.at("none.jsonl") }),
  },
  {
    name: "a folder in place of a file",
    ends: "data/folder",
    message: /\.jsonl or \.csv/,
    work: (place) => {
      mkdirSync(place.at("data.jsonl"));
      return place.train({ data: place.at("data.jsonl") });
    },
  },
  {
    name: "a named pipe in place of a file",
    ends: "file/not-regular",
    work: (place) => place.train({ data: place.pipe("data.jsonl") }),
  },
  {
    name: "a device without end in place of a file",
    ends: "file/not-regular",
    work: (place) => {
      symlinkSync("/dev/zero", place.at("data.jsonl"));
      return place.train({ data: place.at("data.jsonl") });
    },
  },
  {
    name: "a loop of links in place of a file",
    ends: "file/link-loop",
    work: (place) => {
      symlinkSync(place.at("b.jsonl"), place.at("a.jsonl"));
      symlinkSync(place.at("a.jsonl"), place.at("b.jsonl"));
      return place.train({ data: place.at("a.jsonl") });
    },
  },
  {
    name: "a name of every script",
    ends: "accepted",
    work: (place) => place.train({ data: place.file("данные – 数据 – 👩‍👩‍👧 e\u0301\u202E '\"$(x).jsonl", rows) }),
  },
  {
    name: "a name that is too long",
    ends: "file/name-too-long",
    work: (place) => place.train({ data: place.at(`${"a".repeat(300)}.jsonl`) }),
  },
  {
    name: "a path that is too long",
    ends: "file/name-too-long",
    work: (place) => place.train({ data: place.at(`${"a/".repeat(5000)}d.jsonl`) }),
  },
  {
    name: "a file that becomes shorter while it is read",
    ends: "file/past-end",
    work: (place) =>
      place.train({}, { files: filesWith("size", (size) => async (file) => (await size(file)) + (file === goodData ? 9 : 0)) }),
  },
  {
    name: "evaluation records of another kind of file",
    ends: "data/format",
    work: (place) => place.train({ evalData: place.file("eval.xlsx", "PK\x03\x04") }),
  },
  {
    name: "evaluation records without a target",
    ends: "data/no-targets",
    message: /eval\.jsonl/,
    work: (place) => place.train({ evalData: place.file("eval.jsonl", '{"text":""}\n') }),
  },
];
