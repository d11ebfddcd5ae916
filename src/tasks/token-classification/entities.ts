// A text's words with their tags, and the entities that these name: where seqeval 1.2.2 finds them by default (sequence_labeling.py, after
// conlleval).

import { type EncodedWords, encodeWords } from "../../text/pairs.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { exclusiveScores } from "../common/classification.ts";
import type { Classification, LabelledSpan } from "../task.ts";

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

/** What words `from` to before `to` name together; `label` is the type, "_" where the tags have none. */
export interface Entity {
  label: string;
  from: number;
  to: number;
}

/** Whether tags name entities (B-PER, I-PER, O), and not what each word is by itself (NOUN, VERB). */
export const namesEntities = (labels: readonly string[]): boolean =>
  labels.some((label) => /^[BI]-/.test(label)) || labels.every((label) => /^[BIESO]$/.test(label));

/** B-PER → B and PER. */
const partsOf = (tag: string): [kind: string, type: string] => {
  const rest = tag.slice(1);
  return [tag[0] ?? "O", rest.slice(rest.indexOf("-") + 1) || "_"];
};

/**
 * The entities of a sequence of tags, in order. An entity ends where its type does, and begins without a B where no word of its type is
 * before it; E and S, where tags have them, end one.
 */
export function entitiesOf(tags: readonly string[]): Entity[] {
  const found: Entity[] = [];
  let [before, typeBefore, from] = ["O", "", 0];
  for (const [i, tag] of [...tags, "O"].entries()) {
    const [kind, type] = partsOf(tag);
    if (endsBetween(before, kind, typeBefore !== type)) found.push({ label: typeBefore, from, to: i });
    if (beginsAt(before, kind, typeBefore !== type)) from = i;
    [before, typeBefore] = [kind, type];
  }
  return found;
}

const isOutside = (kind: string): boolean => kind === "O" || kind === ".";

const endsBetween = (before: string, kind: string, isOther: boolean): boolean =>
  "ES".includes(before) || ("BI".includes(before) && "BSO".includes(kind)) || (!isOutside(before) && isOther);

const beginsAt = (before: string, kind: string, isOther: boolean): boolean =>
  "BS".includes(kind) || ("ESO".includes(before) && "EI".includes(kind)) || (!isOutside(kind) && isOther);
