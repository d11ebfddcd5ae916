// A JSON file with a list of objects, or with objects one after another (RFC 8259), read an object at a time.
import { LowrankError } from "../../errors.ts";
import { concat, decodeUtf8, MAX_RECORD_BYTES, type Row, rawBlocks, type Source, tooLong } from "./blocks.ts";
import { parseObject } from "./jsonl.ts";

const EXPECTED = "a list of objects, [{…}, {…}], or objects one after another";
const [NEWLINE, QUOTE, BACKSLASH, OPEN_LIST, CLOSE_LIST, OPEN, CLOSE] = [0x0a, 0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d];
const isSpace = (c: number) => c === 0x20 || c === NEWLINE || c === 0x0d || c === 0x09;

type State = "start" | "first" | "next" | "inside" | "listed" | "alone" | "closed";

/** Where the reader is, and where each character leads from there. Inside an object, brackets are counted instead. */
const STATES: Record<State, Readonly<Record<string, State>>> = {
  start: { "[": "first", "{": "inside" },
  first: { "{": "inside", "]": "closed" },
  next: { "{": "inside" },
  inside: {},
  /** Behind an object of a list, and of those that come one after another. */
  listed: { ",": "next", "]": "closed" },
  alone: { "{": "inside" },
  closed: {},
};

/** Only the object at hand is held, so that a list of any length can be read. */
export async function* jsonObjects(source: Source): AsyncGenerator<Row> {
  const { path } = source;
  let state = "start" as State;
  let isList = false;
  let record = 0;
  let line = 1;
  let firstLine = 1;
  let depth = 0;
  let quoted = false;
  let escaped = false;
  /** The beginning of an object that goes on in the next block. */
  let parts: Uint8Array[] = [];
  let held = 0;

  const place = () => `record ${record} (line ${firstLine})`;
  const failure = (message: string, where: string, got: string): LowrankError =>
    new LowrankError("data/json", message, {
      subject: `${path}, ${where}`,
      expected: EXPECTED,
      got,
      next: "check the brackets and commas around the record, or write one object a line into a .jsonl file",
    });
  /** A character outside of objects. */
  const between = (c: number): void => {
    const next = STATES[state][String.fromCharCode(c)];
    if (next === undefined) {
      const found = c >= 0x20 && c < 0x7f ? JSON.stringify(String.fromCharCode(c)) : `the byte 0x${c.toString(16)}`;
      const behind = record === 0 ? "the beginning" : `record ${record}`;
      throw failure(`something other than a record follows ${behind}`, `line ${line}`, found);
    }
    if (next === "first") isList = true;
    if (next === "inside") [record, firstLine, depth] = [record + 1, line, 1];
    state = next;
  };

  for await (const block of rawBlocks(source)) {
    let start = 0;
    for (let i = 0; i < block.length; i++) {
      const c = block[i]!;
      if (c === NEWLINE) line++;
      if (state !== "inside") {
        if (isSpace(c)) continue;
        between(c);
        start = i;
      } else if (quoted) {
        if (escaped) escaped = false;
        else if (c === BACKSLASH) escaped = true;
        else if (c === QUOTE) quoted = false;
      } else if (c === QUOTE) quoted = true;
      else if (c === OPEN || c === OPEN_LIST) depth++;
      else if ((c === CLOSE || c === CLOSE_LIST) && --depth === 0) {
        const last = block.subarray(held === 0 ? start : 0, i + 1);
        const bytes = held === 0 ? last : concat([...parts, last]);
        [parts, held, state] = [[], 0, isList ? "listed" : "alone"];
        yield { fields: parseObject(decodeUtf8(bytes, path, firstLine), `${path}, ${place()}`, EXPECTED), place: place() };
      }
    }
    if (state !== "inside") continue;
    parts.push(held === 0 ? block.subarray(start) : block);
    held += parts.at(-1)!.length;
    if (held > MAX_RECORD_BYTES) throw tooLong(`${path}, ${place()}`, held);
  }
  if (state === "inside") throw failure("the file ends inside a record", place(), "the end of the file");
  if (isList && state !== "closed") throw failure("the list of records is not closed", `line ${line}`, "the end of the file");
}
