// What a task is: the records it reads, how they become examples and batches, its head, its loss, its measures, what a preview shows, what
// prediction returns. index.ts has the table; docs/add-a-task.md says how to add a row.
import type { z } from "zod";
import type { LoraConfig } from "../adapters/config.ts";
import type { Classes } from "../data/classes.ts";
import type { Collator, EvaluationBatches } from "../data/collate.ts";
import type { MadeExample, TrainOn } from "../data/examples.ts";
import type { ImageStore } from "../data/images.ts";
import type { PromptFormatFinder } from "../data/prompts.ts";
import type { RecordFile } from "../data/readers.ts";
import type { ImageSpan } from "../data/record-images.ts";
import type { ColumnNames, NumberedRecord } from "../data/records.ts";
import type { Examples } from "../data/store.ts";
import type { Batch, BatchSize, Example } from "../data/types.ts";
import type { Graph } from "../graph/graph.ts";
import type { TextBase } from "../models/base.ts";
import type { HeadChoice, HeadName, ModelConfig } from "../models/heads/head.ts";
import type { Platform } from "../platform/platform.ts";
import type { Engine } from "../runtime/open-graph.ts";
import type { Tensor } from "../tensor.ts";
import type { EncodedPair } from "../text/pairs.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { DatasetStats, ShownExample } from "./common/preview.ts";

/** How records become examples. */
export interface DataOptions extends ColumnNames {
  trainOn: TrainOn;
  maxLength?: number;
  /** The date that chat templates see. */
  date?: string;
  /** A classifier's classes are the base's own, and other labels are refused; otherwise data can bring others. */
  fixedClasses?: boolean;
}

/** The records of a file. */
export interface OpenedRecords<R extends object = object> {
  file: RecordFile<R>;
  records: AsyncIterable<NumberedRecord<R>>;
  /** The examples that records become, in their order. */
  make(records: AsyncIterable<NumberedRecord<R>>): AsyncIterable<MadeExample<R>>;
  /** Making numbers what it meets (images, classes), so that every record has to be seen. */
  isNumbering: boolean;
}

/** The data of a task for one base: its tokenizer, its limits. */
export interface TaskData {
  /** Longest example, in tokens. */
  maxLength: number;
  /** The ids and numbers of examples are below this. */
  limit: number;
  open(path: string): OpenedRecords;
  /** What the texts of records may not hold to be read as text; absent where no text is read. */
  controlTokens?: readonly string[];
  collate(examples: Examples, packLength?: number): Collator;
  /** Of a task with classes. */
  classes?: Classes;
  /** Of a base that reads images. */
  images?: ImageStore;
  /** The text of an example that samples continue, and what they should write; the example itself if absent. */
  sampled?: (example: Example) => Example;
  /** Of a task that continues texts: how the trained model is asked. */
  prompts?: () => PromptFormatFinder;
  /** Where the images of an example are among its tokens. */
  imageSpans?: (example: Example) => ImageSpan[];
}

/** The largest batch of a run, which chunks of the loss graph are sized by; no limits. */
export interface BatchShape {
  maxTargets: number;
  maxLength: number;
  /** Whether the batches carry images. */
  images?: boolean;
  /** Processes share each batch, whose rows meet in the loss (`meeting`). */
  meets?: boolean;
}

/** What any task measures: the mean loss over its targets. */
export interface Score {
  loss: number;
}

/** A batch that was run: its rows by their numbers, and the outputs of the loss graph. */
export interface RanBatch {
  batch: Batch;
  rows: readonly number[];
  results: Record<string, Tensor>;
}

export interface Measure<S> {
  add(ran: RanBatch): void | Promise<void>;
  /** What was measured of all batches. */
  score(): S | Promise<S>;
}

export interface Measuring {
  examples: Examples;
  /** The classes in the order of the logits; empty where there are none. */
  labels: readonly string[];
  engine: Engine;
}

/** A function of scores; rows of the table measure different ones. */
type Of<S, R> = { of(score: S): R }["of"];

/** How scores are shown: a column each, and lines or tables below them. */
export interface ScoreTable<S> {
  columns: readonly [title: string, cell: Of<S, string>][];
  details?(scores: { base: S | null; adapter: S | null; batchSize: number }): (string | string[][])[];
}

/** What a preview of the data does: counts each file, shows examples, warns. */
export interface Previewing {
  /** Counts the examples of one file. */
  stats(source: string): { add(made: MadeExample): void; total(file: ReturnType<RecordFile["recognized"]>): DatasetStats };
  show(made: MadeExample): Promise<ShownExample>;
  warnings(found: PreviewedFiles): string[];
}

export interface PreviewedFiles {
  /** In tokens; null where no text is read. */
  maxLength: number | null;
  trainOn: TrainOn;
  train: DatasetStats;
  evaluation: DatasetStats | null;
  duplicates: { contradicting: number; shared: number };
}

export interface PreviewContext {
  base: TextBase;
  data: TaskData;
  platform: Platform;
  /** Whether token ids are shown. */
  ids: boolean;
}

export interface LabelScore {
  label: string;
  /** From 0 to 1; those of classes that exclude each other add up to 1. */
  probability: number;
}

/** A part of a text, from character `from` to before `to`, and its class. */
export interface LabelledSpan extends LabelScore {
  text: string;
  from: number;
  to: number;
}

/** What `classify` returns of one input. */
export interface Classification {
  /** Of the whole input, the most probable first; of equal ones the earlier class. Empty where something else is predicted. */
  scores: LabelScore[];
  /** The number that is predicted. */
  value?: number;
  /** Each word and its class. */
  words?: LabelledSpan[];
  /** What words name together. */
  entities?: LabelledSpan[];
  /** Whether the text was longer than the model reads, and its end was left out. */
  cut: boolean;
}

/** How a model classifies: from an input's logits, [labels] or [tokens, labels], to what is returned. */
export interface Classifying<E extends EncodedPair = EncodedPair> {
  reads: "text" | "image";
  /** How a text is encoded, where it is not as one text or as two. */
  encode?(tokenizer: Tokenizer, text: string, maxTokens: number): E;
  /** `encoded` is the text that the logits are of. */
  read(logits: Float32Array, labels: readonly string[], encoded?: E): Omit<Classification, "cut">;
}

/** What predictions are made of. */
export interface Prediction {
  /** `lowrank classify`: from the output `logits`, or with `zeroShot` from the cosines of an image and texts, by their scale. */
  classify?: Classifying;
  /** `lowrank embed`: the outputs that are unit vectors. */
  embed?: { text?: string; image?: string };
  /** Images are classified by the texts of labels that each call brings, by the outputs that `embed` names. */
  zeroShot?: boolean;
}

/** Where `meets` is asked for, a loss takes the rows of these by `amongAll` (common/meeting.ts). */
export interface Meeting {
  /** Outputs of the loss graph [rows, width]: a row for each example of the batch, and behind these the others. */
  outputs: readonly string[];
  /** Vectors that a batch is fed, with an element for each example; the loss reads those of all processes. */
  feeds?: readonly string[];
}

/** A row of the table. `S` is what it measures. */
export interface Task<S extends Score = Score> {
  /** What a model of it is for, as in "a model for …". */
  what: string;
  /** The head that it puts on a backbone. */
  head: HeadName;
  /** What the hub calls it (`pipeline_tag`). */
  pipeline: string;
  /** Transformers' `problem_type`, where several tasks share a head. */
  problemType?: string;
  /** Of a head with a fixed number of outputs, what they are called. */
  labels?: readonly string[];
  /** Its head has classes, which the data can bring. */
  classes?: true;
  /** What PEFT calls it, and which modules are trained in full beside those that PEFT adds by itself. */
  peft: Pick<LoraConfig, "taskType"> & Partial<LoraConfig>;
  /** The columns of its records that can be named. */
  columns: readonly (keyof ColumnNames)[];
  /** Options of runs that not every task has. */
  takes: readonly ("packing" | "samples" | "trainOn")[];
  /** Its own options: a shape of zod, each with its line of help. */
  options?: z.ZodRawShape;
  /** What options of a run say of the head. */
  chooses?(options: TaskOptions): HeadChoice;
  /** What the speed is counted in. */
  unit: "tokens" | "examples";
  /** Rows of a batch of an evaluation, if nothing else is said. */
  evalBatchSize: number;
  /** Of a loss in which the rows of a batch meet: what processes that share a batch tell each other. Other batches are computed in parts. */
  meeting?: Meeting;
  /** Fewest rows of a batch, where there is nothing to learn from fewer. */
  fewestRows?: number;
  /** The batch of so many examples whose texts have `width` tokens each; a row and `width` targets each, if absent. */
  fullBatch?(examples: number, width: number): BatchSize;
  /** What has to hold for a base beside its head. Throws `train/option` and the like. */
  check?(base: TextBase, options: { batchSize: number }): void;
  data(base: TextBase, options: DataOptions, host: Pick<Platform, "files" | "decodeImage">): Promise<TaskData>;
  /** Σ of the losses over the batch's targets as `loss`, from what `collate` feeds; beside it the outputs that are measured. */
  loss(config: ModelConfig, shape: BatchShape, options: TaskOptions): Graph;
  measure(how: Measuring): Measure<S>;
  /** What evaluations during training log beside the loss; nothing beside it is computed if absent. */
  figures?(score: S): Record<string, number>;
  scores: ScoreTable<S>;
  preview(context: PreviewContext): Promise<Previewing>;
  prediction: Prediction;
  /**
   * Computes once, before the first step, what every example's batch is fed beside its tokens: with the model as it starts. Returns
   * the collator whose batches have it.
   */
  prepare?(collator: Collator, start: Start): Promise<Collator>;
}

/** The model before its first step. */
export interface Start {
  /** All outputs of the loss graph for each batch, in order, with the adapter off; processes share them out. */
  run(batches: EvaluationBatches<Batch>): AsyncIterable<Record<string, Tensor>>;
  batchSize: number;
  /** Batches of more places are computed in parts (`passesOf`). */
  passTokens?: number;
}

/** The values of a task's own options. */
export type TaskOptions = Readonly<Record<string, unknown>>;
