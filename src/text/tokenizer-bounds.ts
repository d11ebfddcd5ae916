// How much longer than its input what a tokenizer.json makes of it can be. Parts are those of @huggingface/tokenizers 0.2.
import { LowrankError, valueText } from "../errors.ts";
import { isObject, type JsonObject } from "../formats/json.ts";
import { commonPrefix } from "./turns.ts";

/** Longest text inside a tokenizer, in characters: four times the longest record. */
export const MAX_INNER_CHARS = 32 << 20;
/** Parts of a tokenizer, those of its sequences included; real ones have a dozen. */
export const MAX_COMPONENTS = 1000;
/** Longest token, in characters; the longest in use are a few hundred spaces. */
export const MAX_TOKEN_CHARS = 4096;
/** Most merges of a BPE; the largest vocabularies have half a million. */
export const MAX_MERGES = 1 << 20;
/** Nodes of the tries that added tokens, and the pieces of a Unigram, are put into: a character that no other token begins alike with. */
export const MAX_TRIE_NODES = 1 << 22;
/** Sequences within sequences. */
const MAX_DEPTH = 8;

/** The longest output for an input of `n` characters (or tokens). */
type Bound = (n: number) => number;

const lengthOf = (value: unknown): number => (value === undefined || value === null ? 0 : String(value).length);

/** A pattern matches each `String` once; a regular expression can match nothing, everywhere. `$` stands for text around it. */
function replacement({ pattern, content }: JsonObject): Bound {
  const inserted = lengthOf(content);
  const wanted = lengthOf((pattern as JsonObject | undefined)?.["String"]);
  const references = inserted > 0 ? String(content).split("$").length - 1 : 0;
  return (n) => {
    const each = inserted + references * n;
    return wanted > 0 ? Math.max(n, (n / wanted) * each) : n + (each > 0 ? (n + 1) * each : 0);
  };
}

/** Parts that can lengthen what they are given. All others at most put spaces into it, or write out composed characters. */
const BOUNDS: Record<string, (part: JsonObject) => Bound> = {
  Replace: replacement,
  Prepend:
    ({ prepend }) =>
    (n) =>
      n + lengthOf(prepend),
  // A character is up to four bytes, each of which becomes a character.
  ByteLevel: () => (n) => 3 * n + 1,
  // In front of each piece, and for each space.
  Metaspace: ({ replacement, str_rep }) => {
    const width = Math.max(1, lengthOf(replacement), lengthOf(str_rep));
    return (n) => (2 * n + 1) * width;
  },
  TemplateProcessing: ({ single }) => {
    const items = Array.isArray(single) ? single : [];
    const copies = items.filter((item) => isObject(item) && "Sequence" in item).length;
    return (n) => Math.max(1, copies) * n + items.length;
  },
};

/** The keys of the parts in the order of encoding, and under what name each kind of sequence holds its own. */
const PARTS = { normalizer: "normalizers", pre_tokenizer: "pretokenizers", post_processor: "processors" };

/**
 * The longest that a text of a given length can become while it is encoded.
 * @throws LowrankError `tokenizer/limit` for parts without end, `tokenizer/malformed` for a pattern that is none, which the
 * package would pass over.
 */
export function encodingBound(json: JsonObject, path: string): Bound {
  const refuse = (expected: string, got: string, code = "limit", message = "the tokenizer has parts that never end"): never => {
    throw new LowrankError(`tokenizer/${code}`, message, {
      subject: path,
      expected,
      got,
      next: "download the file again from the model's page",
    });
  };
  const steps: Bound[] = [];
  let parts = 0;
  const checkPattern = (pattern: unknown): void => {
    const { Regex: regex, String: text } = (pattern ?? {}) as JsonObject;
    if (typeof (regex ?? text) === "string") return;
    const got = valueText(pattern).slice(0, 80);
    refuse('a pattern {"Regex": …} or {"String": …}', got, "malformed", "the tokenizer has a pattern that is none");
  };
  const walk = (part: unknown, list: string, depth: number): void => {
    if (typeof part !== "object" || part === null) return;
    if (depth > MAX_DEPTH) refuse(`sequences at most ${MAX_DEPTH} deep`, "more");
    if (++parts > MAX_COMPONENTS) refuse(`at most ${MAX_COMPONENTS} parts`, "more");
    const { type, length, ...rest } = part as JsonObject;
    if (type === "FixedLength" && !(Number.isSafeInteger(length) && (length as number) > 0)) {
      refuse("FixedLength with a length of at least 1", JSON.stringify(length) ?? "no length");
    }
    if (type === "Split" || type === "Replace") checkPattern(rest["pattern"]);
    if (type === "Sequence") for (const inner of [rest[list]].flat()) walk(inner, list, depth + 1);
    else if (typeof type === "string" && Object.hasOwn(BOUNDS, type)) steps.push(BOUNDS[type]!(rest));
  };
  walk(json["decoder"], "decoders", 1);
  steps.length = 0; // decoding begins with tokens, whose text is as long as the vocabulary says
  for (const [key, list] of Object.entries(PARTS)) walk(json[key], list, 1);
  return (n) => steps.reduce((length, step) => step(length), n);
}

/**
 * Fails with `tokenizer/limit` where what the package makes of the vocabulary would not fit into memory: `added` tokens, and `pieces`
 * of a Unigram, each become a trie; merges become keys of a map; `tokens` are decoded by the thousand.
 */
export function checkSizes(
  {
    merges,
    tokens,
    added,
    pieces,
  }: { merges: unknown; tokens: readonly string[]; added: readonly string[]; pieces: readonly string[] },
  path: string,
): void {
  const count = Array.isArray(merges) ? merges.length : 0;
  const limits: [what: string, size: number, most: number][] = [
    ["merges", count, MAX_MERGES],
    ["characters of a token", Math.max(longest(tokens), longest(added)), MAX_TOKEN_CHARS],
    ["characters of added tokens that begin differently", trieNodes(added), MAX_TRIE_NODES],
    ["characters of pieces that begin differently", trieNodes(pieces), MAX_TRIE_NODES],
  ];
  for (const [what, size, most] of limits) {
    if (size <= most) continue;
    throw new LowrankError("tokenizer/limit", "the tokenizer's vocabulary is too large", {
      subject: path,
      expected: `at most ${most} ${what}`,
      got: String(size),
      next: "use the tokenizer of the model's own page",
    });
  }
}

const longest = (texts: readonly string[]): number => texts.reduce((most, { length }) => Math.max(most, length), 0);

/** Nodes of a trie of these texts, at most. */
function trieNodes(texts: readonly string[]): number {
  const all = texts.reduce((sum, { length }) => sum + length, 0);
  if (all <= MAX_TRIE_NODES) return all;
  let last = "";
  let nodes = 0;
  for (const text of [...texts].sort()) {
    nodes += text.length - commonPrefix(text, last);
    last = text;
  }
  return nodes;
}

/** The regular expressions of a tokenizer.json, for messages. */
export function expressionsOf(json: JsonObject): string[] {
  const found: string[] = [];
  const parts = JSON.stringify(["normalizer", "pre_tokenizer", "decoder"].map((key) => json[key] ?? null));
  JSON.parse(parts, (key, value) => {
    if (key === "Regex" && typeof value === "string") found.push(value.length > 80 ? `${value.slice(0, 80)}…` : value);
    return value;
  });
  return found;
}
