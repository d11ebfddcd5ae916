// A text that comes as words, as Transformers' fast tokenizers encode it with is_split_into_words: each word by itself.
import { type EncodedPair, framed } from "./pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface EncodedWords extends EncodedPair {
  /** Where the first token of each word is among `ids`; -1 of a word that has none, or that was cut off. */
  firsts: number[];
}

/**
 * The tokens of `words`, with special tokens around them, `maxTokens` at most. Words of tokenizers that distinguish " a" from "a" begin with
 * a space, the first too, as with Transformers' `add_prefix_space=True`. Throws what `encodePair` throws.
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
