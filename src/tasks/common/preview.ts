// What a preview of any task consists of: counts of each data file, and examples as they are trained on.

import type { Recognized } from "../../data/readers.ts";
import { type ImageSpan, imageNote } from "../../data/record-images.ts";
import { type Example, IGNORE } from "../../data/types.ts";
import { makeStreamDecoder, type Tokenizer } from "../../text/tokenizer.ts";
import { grouped } from "../../units.ts";
import type { PreviewedFiles } from "../task.ts";

/** Counts of one data file; what a task does not have is null or absent. */
export interface DatasetStats {
  source: string;
  /** What the file was recognized as; null if nothing is in it. */
  file: Recognized | null;
  records: number;
  /** Tokens of the examples, after truncation. */
  tokens: number;
  /** Records that are longer than the maximum length. */
  truncated: number;
  /** In tokens. */
  lengths: Lengths | null;
  /** The classes in the order of the logits, with the number of records of each, or of words where these are classified. */
  classes: { label: string; count: number }[] | null;
  /** Words that have a class. */
  words?: number;
  /** Image files, each counted once. */
  images: number | null;
  /** Of texts that are continued. */
  continued?: ContinuedStats;
}

/** Counts of a file whose texts are continued. */
export interface ContinuedStats {
  kind: "messages" | "completion" | "text" | "pair";
  /** Records that are trained on: all but the ones left out. */
  examples: number;
  /** Tokens that are targets. */
  trained: number;
  /** Tokens lost to truncation; `cutTrained` of them would have been targets. */
  cutTokens: number;
  cutTrained: number;
  /** Records left out because nothing in them is trained: truncated before it, or without it. `places` are the first of them. */
  dropped: { cut: number; empty: number; places: string[] };
  /** Examples, not truncated, that end with no trained token that stops generation. */
  endless: number;
  /** Of pairs: those whose answers are equal. */
  equal?: number;
}

/** How long the examples of a file are; 95 of 100 are no longer than `most`. */
export interface Lengths {
  shortest: number;
  median: number;
  most: number;
  longest: number;
  histogram: Bar[];
}

/** Examples of `from` to `to` tokens. */
export interface Bar {
  from: number;
  to: number;
  count: number;
}

/** One example as it is trained on; what a task does not have is absent. */
export interface ShownExample {
  /** Of its record in the file: "line 3". */
  place: string;
  /** The name of its class, or its number. */
  label?: string;
  /** Of a text whose words are classified: each of them and its class. */
  words?: { text: string; label: string }[];
  /** What the tokens of each text decode to, special tokens included. */
  text?: string[];
  tokens?: number;
  /** Whether the text was longer than the model reads, or than `maxLength`. */
  isCut?: boolean;
  ids?: number[];
  /** Its image: the file, upright, and the pixels that the model gets of it. */
  image?: { path: string; width: number; height: number; prepared: { tiles: number; width: number; height: number } };
  /** Of texts that are continued: targets, tokens lost to truncation, and the text in pieces that are trained or not. */
  trained?: number;
  cut?: number;
  parts?: TextPart[];
  /** Of examples of several texts whose tokens are trained: each with its name. */
  texts?: { name: string; parts: TextPart[] }[];
}

/** A piece of a text whose tokens are all targets, or none of them. */
export interface TextPart {
  text: string;
  trained: boolean;
}

/** Dropped records that are named. */
const MAX_PLACES = 20;

/** Counts of a file whose texts are continued, which the reader of its examples adds to. */
export function continuedStats(source: string, kind: ContinuedStats["kind"]) {
  const dropped: ContinuedStats["dropped"] = { cut: 0, empty: 0, places: [] };
  const counted: ContinuedStats = { kind, examples: 0, trained: 0, cutTokens: 0, cutTrained: 0, dropped, endless: 0 };
  const sums = { records: 0, tokens: 0, truncated: 0 };
  const lengths: number[] = [];
  return {
    counted,
    sums,
    lengths,
    /** Counts a record that is left out. */
    drop(why: "cut" | "empty", place: string): void {
      dropped[why]++;
      if (dropped.places.length < MAX_PLACES) dropped.places.push(place);
    },
    total: (file: DatasetStats["file"]): DatasetStats => ({
      source,
      file,
      ...sums,
      lengths: lengthsOf(lengths),
      classes: null,
      images: null,
      continued: counted,
    }),
  };
}

/** How many tokens are targets. */
export const targetsOf = (labels: Int32Array): number => labels.reduce((sum, label) => sum + (label === IGNORE ? 0 : 1), 0);

/** What tokens decode to, from one place to another, in pieces that are trained or not; images are notes. */
export function textParts(
  tokenizer: Tokenizer,
  { ids, labels }: Pick<Example, "ids" | "labels">,
  [from, to]: readonly [from: number, to: number],
  images: readonly ImageSpan[] = [],
): TextPart[] {
  const parts: TextPart[] = [];
  const add = (text: string, trained: boolean): void => {
    const last = parts.at(-1);
    if (last?.trained === trained) last.text += text;
    else if (text !== "") parts.push({ text, trained });
  };
  let start = from;
  for (const image of [...images, null]) {
    const end = image?.from ?? to;
    const decoder = makeStreamDecoder(tokenizer, { skipSpecialTokens: false });
    for (let i = start; i < end; i++) add(decoder.push(ids[i]!), labels[i] !== IGNORE);
    add(decoder.flush(), labels[end - 1] !== IGNORE);
    if (image) add(imageNote(image), false);
    start = image?.to ?? to;
  }
  return parts;
}

/** Bars of a histogram, at most. */
const BARS = 10;

export function lengthsOf(lengths: readonly number[]): Lengths {
  const sorted = [...lengths].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  return { shortest: at(0), median: at(0.5), most: at(0.95), longest: at(1), histogram: histogram(sorted) };
}

/** Bars of equal width, which is 1, 2 or 5 times a power of ten, from the shortest to the longest of `sorted` lengths. */
function histogram(sorted: readonly number[]): Bar[] {
  if (sorted.length === 0) return [];
  const widths = [1, 2, 5].flatMap((digit) => Array.from({ length: 8 }, (_, power) => digit * 10 ** power)).sort((a, b) => a - b);
  const bars = (width: number) => {
    const first = Math.floor(sorted[0]! / width);
    return { first, count: Math.floor(sorted.at(-1)! / width) - first + 1 };
  };
  const width = widths.find((one) => bars(one).count <= BARS) ?? widths.at(-1)!;
  const { first, count } = bars(width);
  const result = Array.from({ length: count }, (_, i) => ({
    from: (first + i) * width,
    to: (first + i + 1) * width - 1,
    count: 0,
  }));
  for (const length of sorted) result[Math.floor(length / width) - first]!.count++;
  return result;
}

/** Warnings about each file, behind its name: those of the task, or that it has no records. */
export const fileWarnings = ({ train, evaluation }: PreviewedFiles, of: (file: DatasetStats) => (string | false)[]): string[] =>
  [train, ...(evaluation ? [evaluation] : [])].flatMap((file) => {
    const warnings = file.records === 0 ? ["there are no records, and a run would refuse the file"] : of(file);
    return warnings.filter((one) => one !== false).map((one) => `${file.source}: ${one}`);
  });

/** Where more than a tenth of the records are truncated: `what` they are, and what is `lost` with their end. */
export const truncationWarning = (
  { records, truncated }: DatasetStats,
  maxLength: number | null,
  what: string,
  lost: string,
): string | false =>
  truncated > records / 10 &&
  `${grouped(truncated)} of ${grouped(records)} ${what} are truncated at ${maxLength} tokens, and ${lost}`;

/** Where training records contradict each other, by the words of the task, and where evaluation records are trained on. */
export function duplicateWarnings(
  { duplicates: { contradicting, shared }, train, evaluation }: PreviewedFiles,
  contradictions?: (count: number) => string,
): string[] {
  const share = `${grouped(shared)} of ${grouped(evaluation?.records ?? 0)}`;
  return [
    contradicting > 0 && contradictions && `${train.source}: ${contradictions(contradicting)}; one of both is wrong`,
    shared > 0 && `${share} evaluation records are training records, so the evaluation looks better than it is`,
  ].filter((one) => typeof one === "string");
}
