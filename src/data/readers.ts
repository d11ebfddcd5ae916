// Training records from JSON Lines and CSV (RFC 4180) files, read in blocks: a file of any size needs the memory of one block.
import { parse as parseCsv } from "csv-parse/browser/esm/sync";
import { LowrankError, nearest } from "../errors.ts";
import type { Files } from "../files.ts";
import type { ChatMessage } from "../text/template.ts";

/** Bytes read at a time. */
export const READ_BLOCK_BYTES = 1 << 20;
/** Longest line of a JSONL file, longest record of a CSV file (give or take a block): a thick book is 2 MB. */
export const MAX_RECORD_BYTES = 8 << 20;
export const MAX_CSV_COLUMNS = 10_000;

export interface PromptRecord {
  prompt: string;
  completion: string;
}
export interface MessagesRecord {
  messages: ChatMessage[];
}
export interface TextRecord {
  text: string;
}
export type DataRecord = PromptRecord | MessagesRecord | TextRecord;

/** A record and the line of the file it starts at, from 1. */
export interface NumberedRecord {
  record: DataRecord;
  line: number;
}

/** The keys (JSONL) or columns (CSV) that hold a record's texts. Others are ignored. */
export interface ReadOptions {
  /** Default "prompt". */
  promptColumn?: string;
  /** Default "completion". */
  completionColumn?: string;
  /** Default "text". */
  textColumn?: string;
}

type Kind = "completion" | "messages" | "text";
type Keys = Record<Kind, readonly string[]>;

/**
 * The records of a .jsonl (or .ndjson) or .csv file, in order: `{prompt, completion}`, `{messages}` or `{text}`, the same
 * kind throughout. Blank lines are skipped; a byte order mark and CRLF are accepted.
 * @throws LowrankError `data/…` that names the line.
 */
export async function* readRecords(files: Files, path: string, options: ReadOptions = {}): AsyncGenerator<NumberedRecord> {
  const { promptColumn = "prompt", completionColumn = "completion", textColumn = "text" } = options;
  const keys: Keys = { completion: [promptColumn, completionColumn], messages: ["messages"], text: [textColumn] };
  const rows = /\.csv$/i.test(path) ? csvRows : /\.(jsonl|ndjson)$/i.test(path) ? jsonRows : undefined;
  if (rows === undefined) {
    throw new LowrankError("data/format", "the kind of data file is not known", {
      subject: path,
      expected: "a name that ends in .jsonl, .ndjson or .csv",
      got: path.split("/").at(-1),
      next: "write one JSON object a line into a .jsonl file",
    });
  }
  let first: { kind: Kind; line: number } | undefined;
  for await (const { row, line } of rows(files, path)) {
    const where = `${path}, line ${line}`;
    const kind = kindOf(row, keys, where);
    first ??= { kind, line };
    if (kind !== first.kind) {
      throw new LowrankError("data/mixed", "the records are not all of one kind", {
        subject: where,
        expected: `${describe(keys[first.kind])}, as on line ${first.line}`,
        got: describe(keys[kind]),
        next: "put each kind into a file of its own",
      });
    }
    yield { record: makeRecord(row, kind, keys, where), line };
  }
}

type Row = ReadonlyMap<string, unknown>;
interface NumberedRow {
  row: Row;
  line: number;
}

async function* jsonRows(files: Files, path: string): AsyncGenerator<NumberedRow> {
  for await (const block of blocks(files, path, lastNewline)) {
    let line = block.line;
    for (const text of block.text.split("\n")) {
      const where = `${path}, line ${line++}`;
      if (text.trim() === "") continue;
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch (cause) {
        throw new LowrankError("data/json", "the line is not JSON", {
          subject: where,
          expected: "one JSON object a line",
          got: (cause as Error).message,
          next: "check that each record is on one line of its own, without a comma after it",
          cause,
        });
      }
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        throw new LowrankError("data/json", "the line holds no object", {
          subject: where,
          expected: "one JSON object a line",
          got: typeName(value),
          next: "write one record a line, not a list of records",
        });
      }
      yield { row: new Map(Object.entries(value)), line: line - 1 };
    }
  }
}

async function* csvRows(files: Files, path: string): AsyncGenerator<NumberedRow> {
  let columns: string[] | undefined;
  for await (const block of blocks(files, path, lastRecordEnd)) {
    for (const { fields, line } of parseBlock(block, path)) {
      const where = `${path}, line ${line}`;
      if (columns === undefined) {
        columns = fields;
        const twice = columns.find((name, i) => columns!.indexOf(name) !== i);
        if (columns.length > MAX_CSV_COLUMNS || twice !== undefined) {
          throw new LowrankError("data/csv", "the columns cannot be told apart", {
            subject: where,
            expected: `at most ${MAX_CSV_COLUMNS} columns, each with a name of its own`,
            got: twice === undefined ? `${columns.length} columns` : `${JSON.stringify(twice)} twice`,
            next: "give each column a name in the first line",
          });
        }
        continue;
      }
      if (fields.length !== columns.length) {
        throw new LowrankError("data/csv", "the record has another number of fields than there are columns", {
          subject: where,
          expected: `${columns.length} fields: ${columns.slice(0, 20).join(", ")}`,
          got: `${fields.length}`,
          next: 'put fields that hold a comma or a line break in double quotes, with "" for a quote',
        });
      }
      yield { row: new Map(columns.map((name, i) => [name, fields[i]])), line };
    }
  }
}

/** The records of a block, each with the line it starts at (csv-parse's own count is off after CRLF inside quotes). */
function parseBlock({ bytes, line }: Block, path: string): { fields: string[]; line: number }[] {
  const options = { relax_column_count: true, skip_empty_lines: true, record_delimiter: ["\r\n", "\n"], info: true };
  try {
    const parsed = parseCsv(bytes, options) as unknown as { record: string[]; info: { bytes: number } }[];
    let end = 0;
    let next = line;
    return parsed.map(({ record, info }) => {
      next += countNewlines(bytes.subarray(end, info.bytes));
      end = info.bytes;
      const terminator = bytes[end - 1] === 0x0a ? 1 : 0;
      return { fields: record, line: next - terminator - record.reduce((n, field) => n + field.split("\n").length - 1, 0) };
    });
  } catch (cause) {
    // `bytes` of a CsvError is where the last good record ends.
    let { message, bytes: at = 0 } = cause as Error & { bytes?: number };
    while (bytes[at] === 0x0a || bytes[at] === 0x0d) at++;
    throw new LowrankError("data/csv", "the record cannot be read", {
      subject: `${path}, line ${line + countNewlines(bytes.subarray(0, at))}`,
      expected: "comma-separated fields, those with quotes, commas or line breaks in double quotes",
      got: message.replace(/ at line \d+/, "").replace(/ on line \d+/, ""),
      next: 'write a quote inside a field as "" and close every quote',
      cause,
    });
  }
}

interface Block {
  /** Valid UTF-8. */
  bytes: Uint8Array;
  text: string;
  /** The line of the file that the text starts at, from 1. */
  line: number;
}

/** A file in blocks that end where `end` says a record does (offset after it, 0 if nowhere yet). */
async function* blocks(files: Files, path: string, end: (bytes: Uint8Array) => number): AsyncGenerator<Block> {
  const size = await files.size(path);
  let rest: Uint8Array = new Uint8Array(0);
  let line = 1;
  for (let offset = 0; offset < size; ) {
    const read = await files.read(path, offset, Math.min(READ_BLOCK_BYTES, size - offset));
    const start = offset === 0 && read[0] === 0xef && read[1] === 0xbb && read[2] === 0xbf ? 3 : 0;
    offset += read.length;
    const bytes = new Uint8Array(rest.length + read.length - start);
    bytes.set(rest);
    bytes.set(read.subarray(start), rest.length);
    const length = offset === size ? bytes.length : end(bytes);
    rest = bytes.subarray(length);
    checkRecordLength(rest.length, path, line + countNewlines(bytes.subarray(0, length)));
    if (length === 0) continue;
    const whole = bytes.subarray(0, length);
    yield { bytes: whole, text: decodeUtf8(whole, path, line), line };
    line += countNewlines(whole);
  }
}

function checkRecordLength(length: number, path: string, line: number): void {
  if (length <= MAX_RECORD_BYTES) return;
  throw new LowrankError("data/too-long", "the record is too long", {
    subject: `${path}, line ${line}`,
    expected: `at most ${MAX_RECORD_BYTES} bytes a record`,
    got: `more than ${length} bytes without an end`,
    next: "split the text into several records; in a CSV file, check that every quote is closed",
  });
}

const lastNewline = (bytes: Uint8Array): number => bytes.lastIndexOf(0x0a) + 1;

/** After the last line break outside quotes. A quote within quotes is written twice, so counting them is enough. */
function lastRecordEnd(bytes: Uint8Array): number {
  let end = 0;
  let quoted = false;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] === 0x22) quoted = !quoted;
    else if (bytes[i] === 0x0a && !quoted) end = i + 1;
  }
  return end;
}

/** A byte order mark inside the file is text like any other. */
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array, path: string, line: number): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    // No UTF-8 sequence contains a line feed, so the broken line can be found line by line.
    for (let start = 0; ; line++) {
      const end = bytes.indexOf(0x0a, start) + 1 || bytes.length;
      try {
        utf8.decode(bytes.subarray(start, end));
        start = end;
      } catch {
        throw new LowrankError("data/encoding", "the line is not UTF-8", {
          subject: `${path}, line ${line}`,
          expected: "UTF-8",
          got: "bytes that are not",
          next: "convert the file, as in: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
          cause,
        });
      }
    }
  }
}

function countNewlines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, at + 1)) count++;
  return count;
}

/** Which kind of record a row is, by the keys it has. */
function kindOf(row: Row, keys: Keys, where: string): Kind {
  const kinds = (Object.keys(keys) as Kind[]).filter((kind) => keys[kind].every((key) => row.has(key)));
  if (kinds.length === 1) return kinds[0]!;
  const found = [...row.keys()];
  const missing = keys.completion.filter((key) => !row.has(key));
  const others = found.filter((key) => !keys.completion.includes(key));
  const similar = missing.length === 1 ? nearest(missing[0]!, others, 1)[0] : undefined;
  throw new LowrankError(
    "data/keys",
    kinds.length === 0 ? "the record's keys are not those of any kind" : "the record is of several kinds",
    {
      subject: where,
      expected: `one of ${Object.values(keys).map(describe).join(", ")}`,
      got: found.length === 0 ? "no keys" : describe(found.slice(0, 20)),
      next:
        kinds.length > 1
          ? "keep the keys of one kind"
          : `rename the keys, or name the columns${similar === undefined ? "" : ` (${missing[0]} may be ${JSON.stringify(similar)} here)`}`,
    },
  );
}

function makeRecord(row: Row, kind: Kind, keys: Keys, where: string): DataRecord {
  const text = (key: string): string => requireText(row.get(key), key, where);
  if (kind === "text") return { text: text(keys.text[0]!) };
  if (kind === "completion") return { prompt: text(keys.completion[0]!), completion: text(keys.completion[1]!) };
  const messages = row.get("messages");
  if (!Array.isArray(messages) || messages.length === 0) {
    throw wrongValue("messages", "a list of at least one {role, content}", messages, where);
  }
  for (const [i, message] of messages.entries()) {
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw wrongValue(`messages[${i}]`, "an object {role, content}", message, where);
    }
    requireText(message.role, `messages[${i}].role`, where);
    requireText(message.content, `messages[${i}].content`, where);
  }
  return { messages };
}

function requireText(value: unknown, key: string, where: string): string {
  if (typeof value !== "string") throw wrongValue(key, "a string", value, where);
  return value;
}

const wrongValue = (key: string, expected: string, value: unknown, where: string): LowrankError =>
  new LowrankError("data/value", `${key} cannot be used`, {
    subject: where,
    expected,
    got: typeName(value),
    next: "correct the record, or remove it",
  });

const describe = (keys: readonly string[]): string => `{${keys.join(", ")}}`;

const typeName = (value: unknown): string =>
  value === undefined
    ? "nothing"
    : value === null
      ? "null"
      : Array.isArray(value)
        ? value.length === 0
          ? "an empty list"
          : "a list"
        : `a ${typeof value}`;
