// Data files to training and evaluation examples, and the batches an evaluation runs.
import { makeBatch, packExamples } from "../data/batch.ts";
import { type ExampleReport, makeExamples } from "../data/examples.ts";
import { type NumberedRecord, type ReadOptions, readRecords } from "../data/readers.ts";
import type { Batch, Example } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import type { Base } from "../models/base.ts";
import { permutation, purpose } from "../random.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { ObjectiveShape } from "./objective.ts";

/** Default longest example, in tokens. */
const MAX_LENGTH = 1024;

/** How records become examples. */
export interface DataOptions extends ReadOptions {
  trainOn: "completion" | "all";
  maxLength?: number;
  /** The date that chat templates see. */
  date?: string;
}

export interface Dataset {
  examples: Example[];
  report: ExampleReport;
}

/** Reads files of records for one base: its tokenizer, its limits. */
export interface DataReader {
  /** Longest example, in tokens. */
  maxLength: number;
  /** An id to pad with. */
  padId: number;
  read(path: string): Promise<Dataset>;
  /** The records of one file, a share of them (chosen by `seed`) kept for evaluation. */
  split(path: string, share: number, seed: number): Promise<{ train: Dataset; held: Dataset }>;
}

/** A reader of data files. Fails if the tokenizer has ids that the base has no embedding for, or its positions do not suffice. */
export async function dataReader(files: Files, base: Base, options: DataOptions): Promise<DataReader> {
  const tokenizer = await base.tokenizer();
  checkVocabulary(tokenizer, base);
  const maxLength = lengthLimit(options.maxLength, base);
  const now = options.date === undefined ? undefined : new Date(options.date);
  const make = (records: AsyncIterable<NumberedRecord> | NumberedRecord[], source: string) =>
    makeExamples(records, tokenizer, { maxLength, trainOn: options.trainOn, source, now });
  return {
    maxLength,
    // Padding is masked, so any id will do where the tokenizer's has no row in the embedding.
    padId: tokenizer.padId < base.config.vocabSize ? tokenizer.padId : 0,
    read: (path) => make(readRecords(files, path, options), path),
    split: async (path, share, seed) => {
      const records: NumberedRecord[] = [];
      for await (const record of readRecords(files, path, options)) records.push(record);
      const count = Math.ceil(share * records.length);
      if (count === records.length) throw nothingLeft(path, count);
      const held = new Set(permutation(seed, [purpose.shuffle, 0, 2], records.length).subarray(0, count));
      return {
        train: await make(
          records.filter((_, i) => !held.has(i)),
          path,
        ),
        held: await make(
          records.filter((_, i) => held.has(i)),
          path,
        ),
      };
    },
  };
}

/** Every example once, rows of like length together; several examples in a row of `packLength` tokens if it is given. */
export function evaluationBatches(examples: readonly Example[], batchSize: number, padId: number, packLength?: number): Batch[] {
  const rows =
    packLength === undefined
      ? [...examples].sort((a, b) => b.ids.length - a.ids.length).map((example) => [example])
      : packExamples(examples, packLength);
  return Array.from({ length: Math.ceil(rows.length / batchSize) }, (_, i) =>
    makeBatch(rows.slice(i * batchSize, (i + 1) * batchSize), { padId }),
  );
}

/** The most targets and the longest row of any of `batches`. */
export function shapeOf(batches: Iterable<Batch>): ObjectiveShape {
  const shape = { maxTargets: 1, maxLength: 1 };
  for (const { lossRows, width } of batches) {
    shape.maxTargets = Math.max(shape.maxTargets, lossRows.length);
    shape.maxLength = Math.max(shape.maxLength, width);
  }
  return shape;
}

function checkVocabulary({ vocabSize }: Tokenizer, { checkpoint, config }: Base): void {
  if (vocabSize <= config.vocabSize) return;
  throw new LowrankError("train/vocabulary", "the tokenizer has ids that the embedding has no row for", {
    subject: checkpoint.folder,
    expected: `ids below ${config.vocabSize}, the vocab_size of config.json`,
    got: `${vocabSize - 1}, the tokenizer's largest id`,
    next: "Use the tokenizer files that belong to this checkpoint.",
  });
}

function lengthLimit(maxLength: number | undefined, { config: { maxPositions } }: Base): number {
  if (maxLength === undefined) return Math.min(MAX_LENGTH, maxPositions);
  if (maxLength <= maxPositions) return maxLength;
  throw new LowrankError("train/option", "the model has fewer positions", {
    subject: "maxLength",
    expected: `at most ${maxPositions}, the max_position_embeddings of config.json`,
    got: String(maxLength),
    next: "Train on shorter sequences.",
  });
}

const nothingLeft = (subject: string, count: number): LowrankError =>
  new LowrankError("train/option", "no record would be left to train on", {
    subject,
    expected: "at least one record for training",
    got: count === 0 ? "no records" : `evalSplit takes all ${count} records`,
    next: "Give more records, or a smaller evalSplit.",
  });
