// The account of one data file: how many records, tokens and targets, how long, what is cut, what is left out.
import type { MadeExample } from "../../data/examples.ts";
import type { Recognized } from "../../data/readers.ts";
import { IGNORE } from "../../data/types.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

/** Examples of `from` to `to` tokens. */
export interface Bar {
  from: number;
  to: number;
  count: number;
}

export interface DatasetPreview {
  source: string;
  /** What the file was taken for; null if nothing is in it. */
  file: Recognized | null;
  kind: "messages" | "completion" | "text";
  records: number;
  /** Those that are trained on: all but the ones left out. */
  examples: number;
  /** Tokens of the examples, after cutting, and those of them that are trained. */
  tokens: number;
  trained: number;
  /** Records that are longer than the maximum length, and the tokens they lose; `cutTrained` of them would have been trained. */
  truncated: number;
  cutTokens: number;
  cutTrained: number;
  /** Records left out because nothing in them is trained: cut before it, or without it. `places` are the first of them. */
  dropped: { cut: number; empty: number; places: string[] };
  /** Examples, not cut, that end with no trained token that stops generation. */
  endless: number;
  /** In tokens, before cutting. */
  lengths: Lengths;
}

/** How long the examples of a file are; 95 of 100 are no longer than `most`. */
export interface Lengths {
  shortest: number;
  median: number;
  most: number;
  longest: number;
  histogram: Bar[];
}

/** Among how many last trained tokens one that stops generation is looked for. */
const END_TOKENS = 3;
/** Dropped records that are named. */
const MAX_PLACES = 20;
/** Bars of a histogram, at most. */
const BARS = 10;

/** An account that records are added to. */
export function makeAccount(source: string, { eosIds }: Tokenizer, maxLength: number) {
  const lengths: number[] = [];
  const total: Omit<DatasetPreview, "lengths" | "file"> = {
    source,
    kind: "text",
    records: 0,
    examples: 0,
    tokens: 0,
    trained: 0,
    truncated: 0,
    cutTokens: 0,
    cutTrained: 0,
    dropped: { cut: 0, empty: 0, places: [] },
    endless: 0,
  };
  return {
    add({ record, place, whole: { ids, labels }, imagesEnd = 0 }: MadeExample): void {
      total.kind = "messages" in record ? "messages" : "prompt" in record ? "completion" : "text";
      total.records++;
      lengths.push(ids.length);
      const all = targetsOf(labels);
      const kept = imagesEnd > maxLength ? 0 : targetsOf(labels.subarray(0, maxLength));
      if (ids.length > maxLength) {
        total.truncated++;
        total.cutTokens += ids.length - maxLength;
        total.cutTrained += all - kept;
      }
      if (kept === 0) {
        total.dropped[all === 0 ? "empty" : "cut"]++;
        if (total.dropped.places.length < MAX_PLACES) total.dropped.places.push(place);
        return;
      }
      total.examples++;
      total.tokens += Math.min(ids.length, maxLength);
      total.trained += kept;
      // A template may mark the white space after the end token too.
      const end = labels.filter((label) => label !== IGNORE).slice(-END_TOKENS);
      if (ids.length <= maxLength && !end.some((id) => eosIds.includes(id))) total.endless++;
    },
    total(file: Recognized | null): DatasetPreview {
      return { ...total, file, lengths: lengthsOf(lengths) };
    },
  };
}

export function lengthsOf(lengths: readonly number[]): Lengths {
  const sorted = [...lengths].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  return { shortest: at(0), median: at(0.5), most: at(0.95), longest: at(1), histogram: histogram(sorted) };
}

const targetsOf = (labels: Int32Array): number => labels.reduce((n, label) => n + (label === IGNORE ? 0 : 1), 0);

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
