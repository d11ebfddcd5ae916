// A data file as blocks of whole lines or records: what every reader of text shares, with the limits they keep.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";

/** Bytes read at a time. */
export const READ_BLOCK_BYTES = 1 << 20;
/** Longest line of a JSONL or text file, longest record of the others (give or take a block): a thick book is 2 MB. */
export const MAX_RECORD_BYTES = 8 << 20;

/** A file being read. */
export interface Source {
  files: Files;
  path: string;
  /** Its size, and how far it has been read, in bytes. */
  size: number;
  done: number;
  /** Of a folder: what in it is no record. Counted as it is read. */
  leftOut?: LeftOut;
}

/** Files and folders in a folder of images that are none of its records. */
export interface LeftOut {
  /** Names that begin with a dot. */
  hidden: number;
  /** Files of other endings than those of images, and the path of the first. */
  others: number;
  first: string | null;
  /** Classes without an image. */
  empty: number;
}

/** The fields of a record under their keys or columns, and where in the file it is: "line 3". */
export interface Row {
  fields: ReadonlyMap<string, unknown>;
  place: string;
}

/** The columns of a file that says them before its rows are read, to those that are wanted. */
export type ChooseColumns = (names: readonly string[]) => readonly string[];

/** The rows of a file in order. */
export type RowReader = (source: Source, choose: ChooseColumns) => AsyncGenerator<Row>;

export async function readAt(source: Source, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await source.files.read(source.path, offset, length);
  source.done = Math.max(source.done, offset + length);
  return bytes;
}

/** The file in blocks of `READ_BLOCK_BYTES`, without its byte order mark. */
export async function* rawBlocks(source: Source): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < source.size; offset += READ_BLOCK_BYTES) {
    const block = await readAt(source, offset, Math.min(READ_BLOCK_BYTES, source.size - offset));
    yield offset === 0 && block[0] === 0xef && block[1] === 0xbb && block[2] === 0xbf ? block.subarray(3) : block;
  }
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export interface Block {
  /** Valid UTF-8. */
  bytes: Uint8Array;
  text: string;
  /** The line of the file that the text starts at, from 1. */
  line: number;
}

/** The file in blocks that end where `end` says a record does (offset after it, 0 if nowhere yet). */
export async function* blocks(source: Source, end: (bytes: Uint8Array) => number): AsyncGenerator<Block> {
  const { path, size } = source;
  let rest: Uint8Array = new Uint8Array(0);
  let line = 1;
  for await (const read of rawBlocks(source)) {
    const bytes = concat([rest, read]);
    const length = source.done === size ? bytes.length : end(bytes);
    rest = bytes.subarray(length);
    if (rest.length > MAX_RECORD_BYTES) {
      throw tooLong(`${path}, line ${line + countNewlines(bytes.subarray(0, length))}`, rest.length);
    }
    if (length === 0) continue;
    const whole = bytes.subarray(0, length);
    yield { bytes: whole, text: decodeUtf8(whole, path, line), line };
    line += countNewlines(whole);
  }
}

export const tooLong = (subject: string, length: number): LowrankError =>
  new LowrankError("data/too-long", "the record is too long", {
    subject,
    expected: `at most ${MAX_RECORD_BYTES} bytes a record`,
    got: `more than ${length} bytes without an end`,
    next: "split the text into several records; check that every quote and bracket is closed",
  });

export const lastNewline = (bytes: Uint8Array): number => bytes.lastIndexOf(0x0a) + 1;

export function countNewlines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, at + 1)) count++;
  return count;
}

/** A byte order mark inside the file is text like any other. */
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The text of `bytes`, which start at `line` of the file. Throws `data/encoding` for what is no text. */
export function decodeUtf8(bytes: Uint8Array, path: string, line: number): string {
  const nul = bytes.indexOf(0);
  if (nul >= 0) {
    throw new LowrankError("data/encoding", "the line holds a NUL byte, so it is no text", {
      subject: `${path}, line ${line + countNewlines(bytes.subarray(0, nul))}`,
      expected: "UTF-8",
      got: "a byte of value 0, as UTF-16 and binary files have",
      next: "convert the file, as in: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    });
  }
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

/** What a value is, for messages. */
export function typeName(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}
