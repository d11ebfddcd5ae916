// Data files to training and evaluation examples.
import { pace, stopwatch } from "../clock.ts";
import { controlTextError, controlTextFinder } from "../data/control-text.ts";
import { alsoIn, type Collector, collector, type Dataset } from "../data/dataset.ts";
import type { MadeExample } from "../data/examples.ts";
import type { Recognized, RecordFile } from "../data/readers.ts";
import { sharedExamples } from "../data/shared-examples.ts";
import { type ExampleStore, exampleStore, inOrder } from "../data/store.ts";
import type { BatchSize } from "../data/types.ts";
import { alone, type Communicator } from "../distributed/communicator.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import type { ProcessedImage } from "../images/processor.ts";
import { permutation, purpose } from "../random.ts";
import type { BatchShape, TaskData } from "../tasks/task.ts";

/** Progress while a long file is read and tokenized. */
export interface ReadingEvent {
  type: "reading";
  path: string;
  /** How much of the file is read, of how much. */
  bytes: number;
  size: number;
  records: number;
  seconds: number;
}

const READING_SECONDS = 2;

/** Yields its progress, and returns what was read. */
type Reading<T> = AsyncGenerator<ReadingEvent, T, void>;

/** What was read, its progress left alone. */
export async function finished<T>(reading: Reading<T>): Promise<T> {
  for (;;) {
    const { done, value } = await reading.next();
    if (done) return value;
  }
}

export interface Datasets {
  train: Dataset;
  held?: Dataset;
}

/** Reads files of records for one base and task. */
export interface DataReader extends Omit<TaskData, "open"> {
  /** The records of a file, and the examples that they become. */
  open(path: string): { file: RecordFile<object>; examples: AsyncIterable<MadeExample> };
  read(path: string): Reading<Dataset>;
  /** The records of one file, a share of them (chosen by `seed`) kept for evaluation. */
  split(path: string, share: number, seed: number): Reading<Required<Datasets>>;
  /** The indices of the records that `split` keeps for evaluation. */
  held(path: string, share: number, seed: number): Promise<Set<number>>;
  /** The classes of a classifier, in the order of its logits: those of the first file that was read. Null for others. */
  labels(): readonly string[] | null;
  /** Whether the data have images, as far as they were read. */
  hasImages(): boolean;
  /** The prepared image of a number. */
  imageOf(number: number): Promise<ProcessedImage>;
  /** Removes the files of tokens: examples can't be read any more. */
  close(): Promise<void>;
}

export interface ReadingOptions {
  /** How the paths of files begin that tokens beyond `STORE_MEMORY_BYTES` go to; they stay in memory if absent. */
  spill?: string;
  /** Records whose texts would not reach the model as text are refused. */
  strictText?: boolean;
  /** When it fires, reading ends with `train/stopped`. */
  signal?: AbortSignal;
  /** The processes that read the same files, and share the work. */
  team?: Communicator;
}

export function dataReader(
  files: Files,
  task: TaskData,
  { spill, strictText = false, signal, team = alone }: ReadingOptions = {},
): DataReader {
  const { maxLength, limit, classes, images, controlTokens } = task;
  const stores: ExampleStore[] = [];
  const find = controlTokens && controlTextFinder(controlTokens);

  /** The examples of a file, with what of their records' texts does not reach the model as text. */
  function open(path: string): ReturnType<DataReader["open"]> {
    const { file, records, make, isNumbering } = task.open(path);
    const examples = team.size === 1 || isNumbering ? make(records) : sharedExamples(team, path, records, make);
    if (!find) return { file, examples };
    async function* looked(): AsyncGenerator<MadeExample> {
      for await (const made of examples) {
        const control = find!(made.record);
        if (control && strictText) throw controlTextError(control, file.where(made.place));
        yield control ? { ...made, control } : made;
      }
    }
    return { file, examples: looked() };
  }

  async function* readAll(path: string): Reading<Collector> {
    const { file, examples } = open(path);
    const place = spill === undefined ? undefined : { files, path: `${spill}-${stores.length}` };
    // One that was killed left its file.
    if (place) await files.remove(place.path);
    const store = exampleStore({ limit, spill: place, tilesOf: images && ((number) => images.gridOf(number).tiles) });
    stores.push(store);
    const collected = collector(store, { maxLength, source: path }, task.prompts?.());
    const elapsed = stopwatch();
    const isDue = pace(READING_SECONDS);
    for await (const made of examples) {
      await collected.add(made);
      if (!isDue()) continue;
      yield { type: "reading", path, ...file.progress(), records: collected.records, seconds: elapsed() };
      // Lets what waits have its turn: a signal, for one.
      await new Promise((resolve) => setTimeout(resolve, 0));
      if (!signal?.aborted) continue;
      throw new LowrankError("train/stopped", "stopped while the data were read, before anything was trained", {
        subject: path,
        next: "Run it again from the start; nothing is lost.",
        exitCode: 1,
      });
    }
    return { ...collected, dataset: (numbers) => withFile(collected.dataset(numbers), file.recognized()) };
  }

  /** The dataset, and in its report how many examples each class has, and how many images there are. */
  async function counted(dataset: Dataset): Promise<Dataset> {
    const counts = new Map<string, number>(classes?.labels().map((label) => [label, 0]));
    const seen = new Set<number>();
    if (!classes && !images?.count) return dataset;
    for await (const { classes: numbers = [], images: own = [] } of inOrder(dataset.examples)) {
      for (const number of classes ? numbers.filter((one) => one >= 0) : []) {
        const label = classes!.labels()[classes!.placeOf(number)]!;
        counts.set(label, counts.get(label)! + 1);
      }
      for (const number of own) seen.add(number);
    }
    return {
      ...dataset,
      report: {
        ...dataset.report,
        ...(classes && { classes: [...counts].map(([label, count]) => ({ label, count })) }),
        ...(images?.count && { images: seen.size }),
      },
    };
  }

  return {
    ...task,
    open,
    read: async function* (path) {
      const dataset = (yield* readAll(path)).dataset();
      classes?.settle(path);
      return counted(dataset);
    },
    split: async function* (path, share, seed) {
      const collected = yield* readAll(path);
      classes?.settle(path);
      const held = heldOut(path, collected.records, share, seed);
      const numbers = Int32Array.from({ length: collected.records }, (_, i) => i);
      const train = await counted(collected.dataset(numbers.filter((i) => !held.has(i))));
      return withShared({ train, held: await counted(collected.dataset(numbers.filter((i) => held.has(i)))) });
    },
    held: async (path, share, seed) => {
      let count = 0;
      for await (const _ of task.open(path).file) count++;
      return heldOut(path, count, share, seed);
    },
    labels: () => classes?.labels() ?? null,
    hasImages: () => (images?.count ?? 0) > 0,
    imageOf: (number) => images!.read(number),
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

function heldOut(path: string, records: number, share: number, seed: number): Set<number> {
  const count = Math.ceil(share * records);
  if (count === records) {
    throw new LowrankError("train/option", "no record would be left to train on", {
      subject: path,
      expected: "at least one record for training",
      got: count === 0 ? "no records" : `evalSplit uses all ${count} records`,
      next: "Give more records, or a smaller evalSplit.",
    });
  }
  return new Set(permutation(seed, [purpose.shuffle, 0, 2], records).subarray(0, count));
}

/** The most targets and the longest row of batches of these sizes. */
export function shapeOf(sizes: Iterable<BatchSize>): BatchShape {
  const shape: BatchShape = { maxTargets: 1, maxLength: 1 };
  for (const { targets, width, images } of sizes) {
    if (images !== undefined) shape.images = true;
    shape.maxTargets = Math.max(shape.maxTargets, targets);
    shape.maxLength = Math.max(shape.maxLength, width);
  }
  return shape;
}
