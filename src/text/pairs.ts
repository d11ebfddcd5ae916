// One text, two, or the words of one, as encoders read them: special tokens around them, cut as Transformers cuts ("longest_first").
import { LowrankError } from "../errors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A text, or two texts as one. */
export interface EncodedPair {
  /** With the special tokens. */
  ids: Int32Array;
  /** Where tokens of type 1 begin, the second text's; `ids.length` where there are none. */
  second: number;
  /** Whether something of the texts was left out. */
  cut: boolean;
}

/**
 * The tokens of `text` and, unless it is null, of `second`, `maxTokens` at most: special tokens stay, and of two texts the
 * longer one is cut first. Throws `text/no-room` where the special tokens alone are as many, and `tokenizer/*`.
 */
export function encodePair(tokenizer: Tokenizer, text: string, second: string | null, maxTokens: number): EncodedPair {
  const given = second === null ? [text] : [text, second];
  const whole = tokenizer.limited(() => given.map((one) => tokenizer.encode(one, { addSpecialTokens: false })));
  return framed(tokenizer, whole, maxTokens);
}

/** The tokens of one text or of two with special tokens around them, cut as `encodePair` says. */
function framed(tokenizer: Tokenizer, whole: readonly Int32Array[], maxTokens: number): EncodedPair {
  const frame = tokenizer.frame(whole.length > 1);
  const added = frame.length - whole.length;
  if (!(maxTokens > added)) {
    throw new LowrankError("text/no-room", "the special tokens leave no room for a text", {
      subject: "the longest text",
      expected: `more than ${added} tokens`,
      got: String(maxTokens),
      next: "Allow longer texts.",
    });
  }
  const lengths = whole.map(({ length }) => length);
  const kept = keptLengths(lengths, maxTokens - added);
  const cutAt = (ids: Int32Array, length: number) =>
    tokenizer.cutsLeft ? ids.subarray(ids.length - length) : ids.subarray(0, length);
  const texts = whole.map((ids, i) => cutAt(ids, kept[i]!));
  const parts = frame.map((part) => ("id" in part ? [part.id] : texts[part.text]!));
  const types = frame.flatMap(({ type }, i) => Array<number>(parts[i]!.length).fill(type));
  const from = types.includes(1) ? types.indexOf(1) : types.length;
  if (types.some((type, i) => type !== (i < from ? 0 : 1))) throw otherTypes(types);
  const ids = Int32Array.from(parts.flatMap((part) => [...part]));
  return { ids, second: from, cut: kept.some((length, i) => length < lengths[i]!) };
}

/** How many tokens stay of one text or of two where `most` may: the longer one is cut to the shorter, then both alike. */
function keptLengths(lengths: number[], most: number): number[] {
  if (lengths.length === 1) return [Math.min(lengths[0]!, most)];
  const [a, b] = lengths as [number, number];
  if (a + b <= most) return [a, b];
  // Of an odd number the longer text has one more; of two of the same length the second.
  const least = Math.min(a, b, Math.floor(most / 2));
  return a > b ? [most - least, least] : [least, most - least];
}

const otherTypes = (types: number[]): LowrankError =>
  new LowrankError("tokenizer/malformed", "the tokenizer gives token types of an order that is not supported", {
    subject: "post_processor of tokenizer.json",
    expected: "type 0, then type 1 for the second text",
    got: types.filter((type, i) => type !== types[i - 1]).join(", "),
    next: "Use the tokenizer of the model's own page.",
  });

export interface EncodedWords extends EncodedPair {
  /** Where the first token of each word is among `ids`; -1 of a word that has none, or that was cut off. */
  firsts: number[];
}

/**
 * The tokens of `words`, each encoded by itself as Transformers' fast tokenizers do with is_split_into_words, with special
 * tokens around them, `maxTokens` at most. Words of tokenizers that distinguish " a" from "a" begin with a space, the first
 * too, as with Transformers' `add_prefix_space=True`. Throws what `encodePair` throws.
 */
export function encodeWords(tokenizer: Tokenizer, words: readonly string[], maxTokens: number): EncodedWords {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const parts = tokenizer.limited(() => {
    const prefix = wordPrefix(tokenizer, encode);
    return words.map((word) => (word === "" ? new Int32Array() : encode(word.startsWith(prefix) ? word : prefix + word)));
  });
  const wordOf = parts.flatMap(({ length }, word) => Array<number>(length).fill(word));
  const whole = Int32Array.from(parts.flatMap((ids) => [...ids]));
  const encoded = framed(tokenizer, [whole], maxTokens);
  const frame = tokenizer.frame(false);
  const start = frame.findIndex((part) => "text" in part);
  const kept = encoded.ids.length - (frame.length - 1);
  const from = tokenizer.cutsLeft ? whole.length - kept : 0;
  const firsts = words.map(() => -1);
  // A word that lost its beginning has its label on the first token that is left.
  for (let i = kept - 1; i >= 0; i--) firsts[wordOf[from + i]!] = start + i;
  return { ...encoded, firsts };
}

/** What a word has in front: a space, if the tokenizer marks the beginnings of words only where one stands there. */
function wordPrefix({ idToToken }: Tokenizer, encode: (text: string) => Int32Array): string {
  const isMarked = (text: string) => /^[Ġ▁]/.test(idToToken(encode(text)[0] ?? -1) ?? "");
  return !isMarked("a") && isMarked(" a") ? " " : "";
}
