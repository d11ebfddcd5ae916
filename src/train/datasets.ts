// Data files to training and evaluation examples, and the batches an evaluation runs.
import { alsoIn, type Collector, collector, type Dataset } from "../data/dataset.ts";
import { eachExample, type MadeExample, type TrainOn } from "../data/examples.ts";
import { type Recognized, type RecordFile, readRecords } from "../data/readers.ts";
import type { ColumnNames, NumberedRecord } from "../data/records.ts";
import { type ExampleStore, type Examples, exampleStore } from "../data/store.ts";
import type { Batch } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import type { TextBase } from "../models/base.ts";
import type { DecoderConfig } from "../models/config.ts";
import { permutation, purpose } from "../random.ts";
import { renderWithMask } from "../text/mask.ts";
import type { ChatTemplate } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { ObjectiveShape } from "./causal-lm.ts";
import type { BatchSize } from "./memory.ts";
import { rowsOf } from "./rows.ts";

/** Default longest example, in tokens. */
const MAX_LENGTH = 1024;

/** How records become examples. */
export interface DataOptions extends ColumnNames {
  trainOn: TrainOn;
  maxLength?: number;
  /** The date that chat templates see. */
  date?: string;
}

/** What is told while a long file is read and tokenized. */
export interface ReadingEvent {
  type: "reading";
  path: string;
  /** How much of the file is read, of how much. */
  bytes: number;
  size: number;
  records: number;
  seconds: number;
}

/** Seconds between two events. */
const READING_SECONDS = 2;

/** Tells of its progress, and returns what was read. */
type Reading<T> = AsyncGenerator<ReadingEvent, T, void>;

/** What was read, its progress left alone. */
export async function finished<T>(reading: Reading<T>): Promise<T> {
  for (;;) {
    const { done, value } = await reading.next();
    if (done) return value;
  }
}

/** What there is to train on, and to evaluate on. */
export interface Datasets {
  train: Dataset;
  held?: Dataset;
}

/** Reads files of records for one base: its tokenizer, its limits. */
export interface DataReader {
  /** Longest example, in tokens. */
  maxLength: number;
  /** An id to pad with. */
  padId: number;
  read(path: string): Reading<Dataset>;
  /** The records of one file, a share of them (chosen by `seed`) kept for evaluation. */
  split(path: string, share: number, seed: number): Reading<Required<Datasets>>;
  /** The examples of a file one by one, before they are cut to `maxLength`, and what the file is. */
  each(path: string): { examples: AsyncIterable<MadeExample>; file: RecordFile };
  /** The indices of the records that `split` keeps for evaluation. */
  held(path: string, share: number, seed: number): Promise<Set<number>>;
  /** Removes the files of tokens: examples can't be read any more. */
  close(): Promise<void>;
}

export interface ReadingOptions {
  /** How the paths of files begin that tokens beyond `STORE_MEMORY_BYTES` go to; they stay in memory if absent. */
  spill?: string;
  /** When it fires, reading ends with `train/stopped`. */
  signal?: AbortSignal;
}

/**
 * A reader of data files. Fails if the tokenizer has ids that the base has no embedding for, or its positions do not suffice.
 */
export async function dataReader(
  files: Files,
  base: TextBase,
  options: DataOptions,
  { spill, signal }: ReadingOptions = {},
): Promise<DataReader> {
  const tokenizer = await base.tokenizer();
  checkVocabulary(tokenizer, base);
  const maxLength = lengthLimit(options.maxLength, base.config);
  const now = options.date === undefined ? undefined : new Date(options.date);
  const how = { maxLength, trainOn: options.trainOn, now };
  const stores: ExampleStore[] = [];

  async function* readAll(path: string): Reading<Collector> {
    const file = readRecords(files, path, options);
    const place = spill === undefined ? undefined : { files, path: `${spill}-${stores.length}` };
    // One that was killed left its file.
    if (place) await files.remove(place.path);
    const store = exampleStore({ limit: Math.max(base.config.vocabSize, maxLength + 1), spill: place });
    stores.push(store);
    const collected = collector(store, { ...how, source: path });
    const began = performance.now();
    let told = began;
    for await (const made of eachExample(withCheckedTemplate(file, tokenizer), tokenizer, { ...how, source: path })) {
      await collected.add(made);
      const now = performance.now();
      if (now - told < READING_SECONDS * 1000) continue;
      told = now;
      yield { type: "reading", path, ...file.progress(), records: collected.records, seconds: (now - began) / 1000 };
      // Lets what waits have its turn: a signal, for one.
      await new Promise((resolve) => setTimeout(resolve, 0));
      if (signal?.aborted) throw stopped(path);
    }
    return { ...collected, dataset: (numbers) => withFile(collected.dataset(numbers), file.recognized()) };
  }

  return {
    maxLength,
    // Padding is masked, so any id will do where the tokenizer's has no row in the embedding.
    padId: tokenizer.padId < base.config.vocabSize ? tokenizer.padId : 0,
    read: async function* (path) {
      return (yield* readAll(path)).dataset();
    },
    split: async function* (path, share, seed) {
      const collected = yield* readAll(path);
      const held = heldOut(path, collected.records, share, seed);
      const numbers = Int32Array.from({ length: collected.records }, (_, i) => i);
      const train = collected.dataset(numbers.filter((i) => !held.has(i)));
      return withShared({ train, held: collected.dataset(numbers.filter((i) => held.has(i))) });
    },
    each: (path) => {
      const file = readRecords(files, path, options);
      return { examples: eachExample(withCheckedTemplate(file, tokenizer), tokenizer, { ...how, source: path }), file };
    },
    held: async (path, share, seed) => {
      let count = 0;
      for await (const _ of readRecords(files, path, options)) count++;
      return heldOut(path, count, share, seed);
    },
    close: async () => {
      for (const store of stores) await store.close();
    },
  };
}

const withFile = (dataset: Dataset, file: Recognized | null): Dataset => ({
  ...dataset,
  report: { ...dataset.report, file: file ?? undefined },
});

/** The report on the evaluation's examples says how many of them are trained on. */
export function withShared<T extends Datasets>(datasets: T): T {
  const { train, held } = datasets;
  return held ? { ...datasets, held: { ...held, report: { ...held.report, alsoTrained: alsoIn(train, held) } } } : datasets;
}

/** The indices of the records that are kept for evaluation. */
function heldOut(path: string, records: number, share: number, seed: number): Set<number> {
  const count = Math.ceil(share * records);
  if (count === records) throw nothingLeft(path, count);
  return new Set(permutation(seed, [purpose.shuffle, 0, 2], records).subarray(0, count));
}

/** The batches of an evaluation, made anew each time they are gone through. */
export interface EvaluationBatches extends AsyncIterable<Batch> {
  sizes: readonly BatchSize[];
}

/** Every example once, rows of like length together; several examples in a row of `packLength` tokens if it is given. */
export function evaluationBatches(examples: Examples, batchSize: number, padId: number, packLength?: number): EvaluationBatches {
  const rows = rowsOf(examples, padId, packLength);
  const order = Int32Array.from(rows.lengths, (_, i) => i);
  if (packLength === undefined) order.sort((a, b) => rows.lengths[b]! - rows.lengths[a]! || a - b);
  const batches = Array.from({ length: Math.ceil(order.length / batchSize) }, (_, i) => [
    ...order.subarray(i * batchSize, (i + 1) * batchSize),
  ]);
  return {
    sizes: batches.map(rows.size),
    async *[Symbol.asyncIterator]() {
      for (const batch of batches) yield await rows.batch(batch);
    },
  };
}

/** The most targets and the longest row of batches of these sizes. */
export function shapeOf(sizes: Iterable<BatchSize>): ObjectiveShape {
  const shape = { maxTargets: 1, maxLength: 1 };
  for (const { targets, width } of sizes) {
    shape.maxTargets = Math.max(shape.maxTargets, targets);
    shape.maxLength = Math.max(shape.maxLength, width);
  }
  return shape;
}

/** Every id that can reach the model must have a row in the embedding: the vocabulary's, and those that generation_config.json names. */
function checkVocabulary({ vocabSize, eosIds, bosId }: Tokenizer, { checkpoint, config }: TextBase): void {
  const ids: [string, number][] = [
    ["the tokenizer's largest id", vocabSize - 1],
    ...eosIds.map((id): [string, number] => ["an id that ends a text (eos_token_id)", id]),
    ["the id that begins a text (bos_token_id)", bosId ?? 0],
  ];
  const [what, id] = ids.find(([, id]) => id >= config.vocabSize) ?? [];
  if (id === undefined) return;
  throw new LowrankError("train/vocabulary", "the tokenizer has ids that the embedding has no row for", {
    subject: checkpoint.folder,
    expected: `ids below ${config.vocabSize}, the vocab_size of config.json`,
    got: `${id}, ${what}`,
    next: "Use the tokenizer files and generation_config.json that belong to this checkpoint.",
  });
}

/** Tokens of their own as chat templates write them. */
const MARKER = /<\|[^\s<>|]{1,64}\|>|<\/?(?:start|end)_of_turn>/g;

/** The records as they are; before the first conversation, what the template writes is looked up in the vocabulary. */
async function* withCheckedTemplate(
  records: AsyncIterable<NumberedRecord> | NumberedRecord[],
  tokenizer: Tokenizer,
): AsyncGenerator<NumberedRecord, void, void> {
  let checked = tokenizer.template === undefined;
  for await (const row of records) {
    if (!checked && "messages" in row.record) {
      checkTemplate(tokenizer);
      checked = true;
    }
    yield row;
  }
}

/** The assistant's turn of a short conversation; nothing where the template wants another kind, which its records' rendering will tell. */
function sampleTurn(template: ChatTemplate): string {
  const turns = ["user", "assistant"].map((role) => ({ role, content: "text" }));
  try {
    const { text, spans } = renderWithMask(template, turns);
    return spans.map(([start, end]) => text.slice(start, end)).join("");
  } catch (error) {
    if (error instanceof LowrankError) return "";
    throw error;
  }
}

/**
 * A marker in an answer that the vocabulary lacks would be cut into pieces, and no piece would stop generation. Markers around
 * it (<|user|>) are plain text to some models, such as OLMo 2 and Zephyr.
 */
function checkTemplate(tokenizer: Tokenizer): void {
  const text = tokenizer.limited(() => sampleTurn(tokenizer.template!));
  const missing = [...new Set(text.match(MARKER))].filter((marker) => tokenizer.tokenToId(marker) === undefined);
  if (missing.length === 0) return;
  throw new LowrankError("train/template-tokens", "the chat template ends answers with tokens that the tokenizer does not have", {
    subject: tokenizer.template!.file,
    expected: "tokens of tokenizer.json",
    got: missing.slice(0, 8).join(", "),
    next: "Use the template and the tokenizer of one checkpoint, or write the records as prompt and completion.",
  });
}

/** The longest example: as asked for, where the model has the positions, or a default. */
export function lengthLimit(maxLength: number | undefined, { maxPositions }: Pick<DecoderConfig, "maxPositions">): number {
  if (maxLength === undefined) return Math.min(MAX_LENGTH, maxPositions);
  if (maxLength <= maxPositions) return maxLength;
  throw new LowrankError("train/option", "the model has fewer positions", {
    subject: "maxLength",
    expected: `at most ${maxPositions}, the max_position_embeddings of config.json`,
    got: String(maxLength),
    next: "Train on shorter sequences.",
  });
}

const stopped = (subject: string): LowrankError =>
  new LowrankError("train/stopped", "stopped while the data were read, before anything was trained", {
    subject,
    next: "Run it again from the start; nothing is lost.",
    exitCode: 1,
  });

const nothingLeft = (subject: string, count: number): LowrankError =>
  new LowrankError("train/option", "no record would be left to train on", {
    subject,
    expected: "at least one record for training",
    got: count === 0 ? "no records" : `evalSplit takes all ${count} records`,
    next: "Give more records, or a smaller evalSplit.",
  });
