// Tokenized records as a dataset: the examples in a store, and a report of what became of the records.
import { LowrankError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type ControlTextCounts, controlTextCounts } from "./control-text.ts";
import { type ExampleOptions, eachExample, type MadeExample } from "./examples.ts";
import { type PromptFormat, type PromptFormatFinder, promptFormatOf } from "./prompts.ts";
import type { Recognized } from "./readers.ts";
import type { DataRecord, NumberedRecord } from "./records.ts";
import { type ExampleStore, type Examples, exampleStore, growing, inOrder, subset, targetsIn } from "./store.ts";
import type { Example } from "./types.ts";

/** What became of a dataset. */
export interface ExampleReport {
  /** What was read, where it was a file. */
  file?: Recognized;
  /** Examples made. */
  count: number;
  /** Examples cut to maxLength, those that were then dropped included. */
  truncated: number;
  /** Records that gave no example, because no target was left in them: those without any, and those that lost it when cut. */
  dropped: number;
  droppedEmpty: number;
  droppedCut: number;
  /** Those of them whose images do not fit into maxLength. */
  droppedImages?: number;
  /** Examples with an empty completion: only that the text ends is learnt from them. */
  emptyCompletions: number;
  /** Examples whose record is that of one before. */
  duplicates: number;
  /** Of examples to evaluate on: how many are trained on as well. */
  alsoTrained?: number;
  /** Tokens of the examples made. */
  tokens: number;
  /** Targets among them. */
  targets: number;
  /** Length of the longest, in tokens. */
  longest: number;
  /** Records with texts that do not reach the model as text, and the first of them in the file. */
  controlTokens?: ControlTextCounts["controlTokens"];
  loneSurrogates?: ControlTextCounts["loneSurrogates"];
  /** How a language model trained on them is asked. */
  prompts?: PromptFormat;
  /** The classes of a classifier, in the order of its logits, with the number of examples of each. */
  classes?: { label: string; count: number }[];
  /** Image files, each counted once. */
  images?: number;
}

export interface Dataset {
  examples: Examples;
  report: ExampleReport;
  /** Hashes of the examples' records, ascending: equal ones are those of equal records, short of bad luck. */
  hashes: Float64Array;
}

/** What became of a record, as bits. */
const CUT = 1;
const NO_TARGET = 2;
const NO_TARGET_LEFT = 4;
const EMPTY_COMPLETION = 8;
/** Of those cut to no target: an image would have been cut. */
const CUT_IMAGE = 16;
/** Texts that do not reach the model as text. */
const CONTROL_TOKEN = 32;
const LONE_SURROGATE = 64;
const nothing: Example = { ids: new Int32Array(), labels: new Int32Array() };

/** Collects the examples of one source, truncated to the maximum length. */
export interface Collector {
  add(made: MadeExample): Promise<void>;
  /** Records so far, dropped ones included. */
  readonly records: number;
  /** The dataset of these records, by their numbers from 0; of all if absent. Throws `data/empty`, `data/no-targets`. */
  dataset(numbers?: ArrayLike<number>): Dataset;
}

export function collector(
  store: ExampleStore,
  { maxLength, source = "the dataset" }: Pick<ExampleOptions, "maxLength" | "source">,
  prompts?: PromptFormatFinder,
): Collector {
  if (!Number.isSafeInteger(maxLength) || maxLength < 2) {
    throw new LowrankError("data/option", "no example fits the maximum length", {
      subject: "maxLength",
      expected: "an integer of at least 2 (a token and the one it predicts)",
      got: String(maxLength),
      next: "give the length of the longest sequences to train on, such as 1024",
    });
  }
  const fates = growing(Uint8Array);
  const hashes = growing(Float64Array);
  const control = controlTextCounts();

  async function add({ record, place, whole, key, isEmpty, imagesEnd = 0, isCut, control: found }: MadeExample): Promise<void> {
    prompts?.add(record as DataRecord);
    control.add(found, place);
    const isLonger = isCut === undefined && whole.ids.length > maxLength;
    const example = isLonger ? { ...whole, ids: whole.ids.slice(0, maxLength), labels: whole.labels.slice(0, maxLength) } : whole;
    const cutsImage = imagesEnd > maxLength;
    const isKept = targetsIn(example) > 0 && !cutsImage;
    const fate = isKept ? 0 : isCut || targetsIn(whole) > 0 ? NO_TARGET_LEFT : NO_TARGET;
    fates.push(
      fate |
        ((isCut ?? isLonger) ? CUT : 0) |
        (isEmpty ? EMPTY_COMPLETION : 0) |
        (cutsImage && targetsIn(whole) > 0 ? CUT_IMAGE : 0) |
        (found?.token === undefined ? 0 : CONTROL_TOKEN) |
        (found?.isHalf ? LONE_SURROGATE : 0),
    );
    hashes.push(isKept ? key.record : 0);
    await store.add(isKept ? example : nothing);
  }

  function dataset(numbers?: ArrayLike<number>): Dataset {
    const wanted = numbers ?? Int32Array.from({ length: fates.length }, (_, i) => i);
    const kept = new Int32Array(wanted.length);
    let [count, truncated, droppedEmpty, droppedCut, droppedImages, emptyCompletions] = [0, 0, 0, 0, 0, 0];
    let [tokens, targets, longest, withTokens, withSurrogates] = [0, 0, 0, 0, 0];
    for (let i = 0; i < wanted.length; i++) {
      const number = wanted[i]!;
      const fate = fates.at(number);
      if (fate & CUT) truncated++;
      if (fate & CONTROL_TOKEN) withTokens++;
      if (fate & LONE_SURROGATE) withSurrogates++;
      if (fate & CUT_IMAGE) droppedImages++;
      if (fate & NO_TARGET) droppedEmpty++;
      else if (fate & NO_TARGET_LEFT) droppedCut++;
      else {
        kept[count++] = number;
        if (fate & EMPTY_COMPLETION) emptyCompletions++;
        tokens += store.tokensOf(number);
        targets += store.targetsOf(number);
        longest = Math.max(longest, store.tokensOf(number));
      }
    }
    const indices = kept.slice(0, count);
    const sorted = Float64Array.from(indices, hashes.at).sort();
    const asked = prompts?.format();
    const report: ExampleReport = {
      count,
      truncated,
      dropped: droppedEmpty + droppedCut,
      droppedEmpty,
      droppedCut,
      ...(droppedImages > 0 && { droppedImages }),
      emptyCompletions,
      duplicates: repeated(sorted),
      tokens,
      targets,
      longest,
      ...(withTokens > 0 && { controlTokens: { ...control.counts.controlTokens!, records: withTokens } }),
      ...(withSurrogates > 0 && { loneSurrogates: { ...control.counts.loneSurrogates!, records: withSurrogates } }),
      ...(asked && { prompts: asked }),
    };
    checkReport(report, source, maxLength);
    return { examples: subset(store, indices), report, hashes: sorted };
  }

  return {
    add,
    get records() {
      return fates.length;
    },
    dataset,
  };
}

function repeated(sorted: Float64Array): number {
  let count = 0;
  for (let i = 1; i < sorted.length; i++) if (sorted[i] === sorted[i - 1]) count++;
  return count;
}

/** How many of `held`'s examples are in `train` as well. */
export function alsoIn(train: Dataset, held: Dataset): number {
  let count = 0;
  let at = 0;
  for (const hash of held.hashes) {
    while (at < train.hashes.length && train.hashes[at]! < hash) at++;
    if (train.hashes[at] === hash) count++;
  }
  return count;
}

export const noRecords = (subject: string): LowrankError =>
  new LowrankError("data/empty", "there are no records", {
    subject,
    expected: "at least one record",
    got: "none",
    next: "Check that it is the file you mean.",
  });

function checkReport({ count, dropped, droppedCut, truncated }: ExampleReport, source: string, maxLength: number): void {
  if (count + dropped === 0) throw noRecords(source);
  if (count > 0) return;
  throw new LowrankError("data/no-targets", "no token is a target, so there is nothing to learn", {
    subject: source,
    expected: `completions, assistant turns or texts that begin within the first ${maxLength} tokens`,
    got: `${dropped} records without a target, ${truncated} of them truncated`,
    next: droppedCut > 0 ? "raise the maximum length or shorten the prompts" : "check that the completions are not empty",
  });
}

/**
 * The examples of records that fit into memory, and their report.
 * @throws LowrankError `data/empty`, `data/no-targets`, and what `eachExample` throws.
 */
export async function makeExamples(
  records: AsyncIterable<NumberedRecord> | Iterable<NumberedRecord>,
  tokenizer: Tokenizer,
  options: ExampleOptions,
): Promise<{ examples: Example[]; report: ExampleReport }> {
  const collected = collector(exampleStore({ limit: 2 ** 31 }), options, promptFormatOf());
  for await (const made of eachExample(records, tokenizer, options)) await collected.add(made);
  const { examples, report } = collected.dataset();
  const all: Example[] = [];
  for await (const example of inOrder(examples)) all.push(example);
  return { examples: all, report };
}
