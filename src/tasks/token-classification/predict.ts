// A text's words with their tags, and the entities that these name.

import { type EncodedWords, encodeWords } from "../../text/pairs.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { exclusiveScores } from "../common/classification.ts";
import type { Classification, LabelledSpan } from "../task.ts";
import { entitiesOf, namesEntities } from "./entities.ts";

/** A text, and where its words are in it: what has no white space inside. */
export interface EncodedText extends EncodedWords {
  text: string;
  spans: { from: number; to: number }[];
}

export function splitWords(tokenizer: Tokenizer, text: string, maxTokens: number): EncodedText {
  const spans = [...text.matchAll(/\S+/gu)].map(({ 0: word, index }) => ({ from: index, to: index + word.length }));
  const words = spans.map(({ from, to }) => text.slice(from, to));
  return { ...encodeWords(tokenizer, words, maxTokens), text, spans };
}

/** From logits [tokens, labels]: the likeliest tag of each word that the model read, and entities with the mean of their words' probabilities. */
export function readTags(logits: Float32Array, labels: readonly string[], encoded?: EncodedText): Omit<Classification, "cut"> {
  const { text, spans, firsts } = encoded!;
  const words = firsts.flatMap((first, word): LabelledSpan[] => {
    if (first < 0) return [];
    const { scores } = exclusiveScores(logits.subarray(first * labels.length, (first + 1) * labels.length), labels);
    const { from, to } = spans[word]!;
    return [{ ...scores[0]!, text: text.slice(from, to), from, to }];
  });
  if (!namesEntities(labels)) return { scores: [], words };
  const entities = entitiesOf(words.map(({ label }) => label)).map(({ label, ...entity }): LabelledSpan => {
    const own = words.slice(entity.from, entity.to);
    const [from, to] = [own[0]!.from, own.at(-1)!.to];
    const probability = own.reduce((sum, word) => sum + word.probability, 0) / own.length;
    return { label, probability, text: text.slice(from, to), from, to };
  });
  return { scores: [], words, entities };
}
