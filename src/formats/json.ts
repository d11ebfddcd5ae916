// JSON from files nobody vouches for. Keeps what JSON.parse loses: duplicate keys, exact integers (RFC 8259).
import { LowrankError } from "../errors.ts";
import { type Files, MAX_TEXT_BYTES } from "../files.ts";

/** Deepest nesting of a strictly parsed text. */
export const MAX_JSON_DEPTH = 32;

/** A number that is not an integer within ±(2^53 − 1), as it was written. */
export interface NumberLiteral {
  literal: string;
}
export type Json = null | boolean | string | number | NumberLiteral | Json[] | Map<string, Json>;

/** An object as JSON.parse gives it. */
export type JsonObject = Record<string, unknown>;

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Whose text it is: errors get `code/reason` and name `subject`. `maxValues` bounds the memory that a text can ask for. */
export interface JsonSource {
  code: string;
  subject: string;
  maxValues: number;
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const INTEGER = /^-?[1-9]\d{0,15}$|^0$/;
const WORDS: [string, null | boolean][] = [
  ["null", null],
  ["true", true],
  ["false", false],
];

/** Objects become Maps, so that no key is special; a key that occurs twice in one object is refused. */
export function parseStrictJson(text: string, source: JsonSource): Json {
  let at = 0;
  let values = 0;

  const fail = (reason: string, message: string, position = at): never => {
    throw new LowrankError(`${source.code}/${reason}`, `${message} at character ${position}`, {
      subject: source.subject,
      got: position < text.length ? JSON.stringify(text.slice(position, position + 24)) : "the end of the text",
      next: "The file is damaged or was not written by a conforming writer; fetch or write it again.",
    });
  };

  function skipSpace(): void {
    for (;;) {
      const c = text.charCodeAt(at);
      if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return;
      at++;
    }
  }

  function skip(character: string): boolean {
    skipSpace();
    if (text[at] !== character) return false;
    at++;
    return true;
  }

  function string(): string {
    const start = at;
    if (!skip('"')) fail("json-syntax", "a string was expected");
    let escaped = false;
    for (;;) {
      const c = text.charCodeAt(at);
      if (Number.isNaN(c)) fail("json-truncated", "a string does not end", start);
      if (c < 0x20) fail("json-control-character", "a control character in a string");
      at++;
      if (c === 0x22) break;
      if (c === 0x5c) {
        escaped = true;
        at++;
      }
    }
    if (!escaped) return text.slice(start + 1, at - 1);
    try {
      const decoded: string = JSON.parse(text.slice(start, at));
      if (!/\p{Surrogate}/u.test(decoded)) return decoded;
    } catch {}
    return fail("json-escape", "a string has an escape that stands for no character", start);
  }

  function number(): number | NumberLiteral {
    NUMBER.lastIndex = at;
    const literal = NUMBER.exec(text)?.[0];
    if (literal === undefined) return fail("json-syntax", "a value was expected");
    at += literal.length;
    const value = INTEGER.test(literal) ? Number(literal) : Number.NaN;
    return Number.isSafeInteger(value) ? value : { literal };
  }

  function array(depth: number): Json[] {
    const items: Json[] = [];
    if (skip("]")) return items;
    do items.push(value(depth));
    while (skip(","));
    if (!skip("]")) fail(at < text.length ? "json-syntax" : "json-truncated", "an array continues without , or ]");
    return items;
  }

  function object(depth: number): Map<string, Json> {
    const members = new Map<string, Json>();
    if (skip("}")) return members;
    do {
      skipSpace();
      const start = at;
      const key = string();
      if (members.has(key)) fail("duplicate-key", `the key ${quote(key)} occurs twice in one object`, start);
      if (!skip(":")) fail("json-syntax", "a : was expected");
      members.set(key, value(depth));
    } while (skip(","));
    if (!skip("}")) fail(at < text.length ? "json-syntax" : "json-truncated", "an object continues without , or }");
    return members;
  }

  function value(depth: number): Json {
    skipSpace();
    if (depth > MAX_JSON_DEPTH) fail("json-depth", `nested deeper than ${MAX_JSON_DEPTH}`);
    if (++values > source.maxValues) fail("json-values", `more than ${source.maxValues} values`);
    if (text[at] === '"') return string();
    if (skip("{")) return object(depth + 1);
    if (skip("[")) return array(depth + 1);
    for (const [word, meaning] of WORDS) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return meaning;
      }
    }
    return number();
  }

  const result = value(1);
  skipSpace();
  if (at < text.length) fail("json-trailing", "something follows the JSON text");
  return result;
}

/** The text of a value, two spaces an indent; number literals as they were read. */
export function encodeJson(value: Json, indent = ""): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if ("literal" in value) return value.literal;
  const inner = `${indent}  `;
  const [open, close] = value instanceof Map ? "{}" : "[]";
  const items =
    value instanceof Map
      ? [...value].map(([key, item]) => `${JSON.stringify(key)}: ${encodeJson(item, inner)}`)
      : value.map((item) => encodeJson(item, inner));
  if (items.length === 0) return `${open}${close}`;
  return `${open}\n${inner}${items.join(`,\n${inner}`)}\n${indent}${close}`;
}

/** A name from a file as it can be shown: quoted, and cut when it is long. */
export const quote = (name: string): string => JSON.stringify(name.length > 120 ? `${name.slice(0, 117)}...` : name);

/** The text of a side file. Refused: more than `MAX_TEXT_BYTES`, invalid UTF-8. */
export async function readText(files: Files, path: string): Promise<string> {
  const size = await files.size(path);
  if (size > MAX_TEXT_BYTES) {
    throw new LowrankError("text/too-large", "the file is too large for its kind", {
      subject: path,
      expected: `at most ${MAX_TEXT_BYTES} bytes`,
      got: `${size} bytes`,
      next: "Check that it is the right file.",
    });
  }
  const bytes = await files.read(path, 0, size);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LowrankError("text/utf8", "not valid UTF-8", { subject: path, next: "Save the file as UTF-8.", cause });
  }
}

/** A side file that holds one JSON object (config.json and the like). */
export const readJsonObject = async (files: Files, path: string): Promise<JsonObject> =>
  parseJsonObject(await readText(files, path), path);

const NEWER = "file/newer";
export const isNewer = (error: unknown): boolean => error instanceof LowrankError && error.code === NEWER;

/**
 * A JSON object of ours whose `version` grows with its format. One above `newest` is refused (`file/newer`); whether an older
 * one, or none, can be read is the reader's to say.
 */
export async function readVersioned(files: Files, path: string, newest: number): Promise<JsonObject> {
  const record = await readJsonObject(files, path);
  const { version } = record;
  if (!Number.isSafeInteger(version) || (version as number) <= newest) return record;
  throw new LowrankError(NEWER, "the file was written by a newer version of lowrank", {
    subject: path,
    expected: `version ${newest} or older`,
    got: `version ${version}`,
    next: "Update lowrank (npm install lowrank@latest), or use a folder that this version has written.",
  });
}

/** The JSON value that `text` is; `subject` is what errors call the text. */
export function parseJson(text: string, subject: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const next = "Repair the file, or fetch it again.";
    throw new LowrankError("json/syntax", `not valid JSON: ${(cause as Error).message}`, { subject, next, cause });
  }
}

/** The one JSON object that `text` is. */
export function parseJsonObject(text: string, subject: string): JsonObject {
  const value = parseJson(text, subject);
  if (isObject(value)) return value;
  throw new LowrankError("json/not-object", "not a JSON object", {
    subject,
    expected: "an object",
    got: Array.isArray(value) ? "an array" : value === null ? "null" : `a ${typeof value}`,
    next: "Check that it is the right file.",
  });
}
