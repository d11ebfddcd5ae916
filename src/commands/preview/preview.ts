// What a run would train on: the examples with their trained tokens marked, their lengths, what is lost, what is there twice. No weight is read.
import { type RecordKey, recordKey, seenRecords } from "../../data/duplicates.ts";
import type { MadeExample, TrainOn } from "../../data/examples.ts";
import type { RecordFile } from "../../data/readers.ts";
import type { ColumnNames } from "../../data/records.ts";
import { checkColumns } from "../../data/task-records.ts";
import { IGNORE } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import { loadTextBase, type TextBase } from "../../models/base.ts";
import { type ModelConfig, refuserOf, taskOf } from "../../models/registry.ts";
import { type Task, taskText } from "../../models/task.ts";
import type { Platform } from "../../platform/platform.ts";
import { makeStreamDecoder, type Tokenizer } from "../../text/tokenizer.ts";
import { dataReader } from "../../train/datasets.ts";
import { type ImageSpan, imageNote } from "../../train/image-spans.ts";
import { type DatasetPreview, makeAccount } from "./dataset-stats.ts";
import { previewTask, type TaskPreview } from "./preview-task.ts";

export interface PreviewOptions<T extends PreviewedTask = PreviewedTask> extends ColumnNames {
  /** Folder of the base: config.json and the tokenizer's files are read. */
  base: string;
  /** Training records. */
  data: string;
  /** What the base has to be for, as in training. */
  task?: T;
  /** As in training: records to evaluate on, or the share of the training records that is kept for it, chosen by `seed`. */
  evalData?: string;
  evalSplit?: number;
  seed?: number;
  /** As in training. */
  trainOn?: TrainOn;
  maxLength?: number;
  date?: string;
  /** How many training examples are shown, from the first. Default 3. */
  examples?: number;
  /** Gives their token ids too. */
  ids?: boolean;
}

/** One example as it is trained on. */
export interface ShownExample {
  /** Of its record in the file: "line 3". */
  place: string;
  tokens: number;
  trained: number;
  /** Tokens that were cut off at the maximum length. */
  cut: number;
  /** The text in pieces that are trained or not; together they are what the tokens decode to, and a note for each image's. */
  parts: { text: string; trained: boolean }[];
  ids?: number[];
}

export type PreviewedTask = Task | "causal-lm";
export type PreviewOf<T extends PreviewedTask> = T extends Task ? TaskPreview : Preview;

export interface Preview {
  task: "causal-lm";
  maxLength: number;
  trainOn: TrainOn;
  train: DatasetPreview;
  evaluation: DatasetPreview | null;
  duplicates: {
    /** Records that are there again in the same file. */
    train: number;
    evaluation: number;
    /** Records of the evaluation that are training records. */
    shared: number;
    /** Others of the evaluation whose prompt is that of a training record. */
    sameQuestion: number;
  };
  shown: ShownExample[];
  /** What a person should look at before training. */
  warnings: string[];
}

/**
 * Looks at data as a run with these options would read it, one record at a time. Throws what the run would, except that
 * data without a target are told by a warning. The result's type is that of `task`; without it, that of a language model.
 */
export async function preview<T extends PreviewedTask = "causal-lm">(
  options: PreviewOptions<T>,
  platform: Platform,
): Promise<PreviewOf<T>> {
  checkOptions(options);
  const { files, timeLimit } = platform;
  const base = await loadTextBase(files, options.base, timeLimit);
  const { config } = base;
  checkTask(config, options);
  const found = "task" in config ? previewTask({ ...base, config }, options, platform) : previewTexts(base, options, platform);
  return (await found) as PreviewOf<T>;
}

async function previewTexts(base: TextBase, options: PreviewOptions, platform: Platform): Promise<Preview> {
  const { data, evalData, evalSplit, seed = 0, trainOn = "completion", examples = 3, ids = false } = options;
  const tokenizer = await base.tokenizer();
  const reader = await dataReader(platform, base, { ...options, trainOn });
  const { maxLength } = reader;
  const held = evalSplit === undefined ? new Set<number>() : await reader.held(data, evalSplit, seed);

  const train = makeAccount(data, tokenizer, maxLength);
  const evaluation =
    evalData === undefined && evalSplit === undefined ? null : makeAccount(evalData ?? data, tokenizer, maxLength);
  const trained = seenRecords();
  const evaluated = seenRecords();
  const duplicates = { train: 0, evaluation: 0, shared: 0, sameQuestion: 0 };
  const shown: ShownExample[] = [];
  /** The records for evaluation; those of a split are compared when all of the training's are known. */
  const others: RecordKey[] = [];
  let index = 0;
  const each = (path: string) => reader.each(path) as { file: RecordFile; examples: AsyncIterable<MadeExample> };
  const read = each(data);
  for await (const made of read.examples) {
    const key = recordKey(made.record);
    if (held.has(index++)) {
      evaluation?.add(made);
      others.push(key);
      continue;
    }
    train.add(made);
    if (trained.has(key)) duplicates.train++;
    trained.add(key);
    if (shown.length < examples) shown.push(show(made, reader.imageSpans(made.whole), tokenizer, maxLength, ids));
  }
  const readToo = evalData === undefined ? read : each(evalData);
  if (readToo !== read) {
    for await (const made of readToo.examples) {
      evaluation?.add(made);
      others.push(recordKey(made.record));
    }
  }
  for (const key of others) {
    if (evaluated.has(key)) duplicates.evaluation++;
    evaluated.add(key);
    if (trained.has(key)) duplicates.shared++;
    else if (trained.asked(key)) duplicates.sameQuestion++;
  }
  const found = {
    task: "causal-lm" as const,
    maxLength,
    trainOn,
    train: train.total(read.file.recognized()),
    evaluation: evaluation?.total(readToo.file.recognized()) ?? null,
    duplicates,
    shown,
  };
  return { ...found, warnings: warningsOf(found) };
}

/** An example cut to the maximum length, its text in pieces. */
function show(
  { place, whole }: MadeExample,
  images: readonly ImageSpan[],
  tokenizer: Tokenizer,
  maxLength: number,
  withIds: boolean,
): ShownExample {
  const ids = whole.ids.slice(0, maxLength);
  const isTrained = (i: number): boolean => whole.labels[i] !== IGNORE;
  const parts: ShownExample["parts"] = [];
  const add = (text: string, trained: boolean): void => {
    const last = parts.at(-1);
    if (last?.trained === trained) last.text += text;
    else if (text !== "") parts.push({ text, trained });
  };
  const addText = (from: number, to: number): void => {
    const decoder = makeStreamDecoder(tokenizer, { skipSpecialTokens: false });
    for (let i = from; i < to; i++) add(decoder.push(ids[i]!), isTrained(i));
    add(decoder.flush(), isTrained(to - 1));
  };
  tokenizer.limited(() => {
    let from = 0;
    for (const span of images.filter((span) => span.to <= ids.length)) {
      addText(from, span.from);
      add(imageNote(span), false);
      from = span.to;
    }
    addText(from, ids.length);
  });
  return {
    place,
    tokens: ids.length,
    trained: ids.reduce((n, _, i) => n + (isTrained(i) ? 1 : 0), 0),
    cut: whole.ids.length - ids.length,
    parts,
    ...(withIds && { ids: [...ids] }),
  };
}

function warningsOf({ maxLength, trainOn, train, evaluation, duplicates }: Omit<Preview, "warnings">): string[] {
  const warnings: string[] = [];
  const files = evaluation === null ? [train] : [train, evaluation];
  for (const { source, kind, records, examples, tokens, trained, dropped, endless, truncated } of files) {
    if (records === 0) {
      warnings.push(`${source}: there are no records, and a run would refuse the file`);
      continue;
    }
    if (examples === 0) {
      const why = dropped.cut > 0 ? `raise the maximum length, which is ${maxLength}` : "check that the answers are not empty";
      warnings.push(`${source}: no token is trained, and a run would refuse the data; ${why}`);
      continue;
    }
    if (kind !== "text" && trainOn !== "all" && trained === tokens - examples) {
      warnings.push(
        `${source}: every token is trained, prompts included; check the chat template's marks, or that prompts are not empty`,
      );
    }
    if (kind === "messages" && trainOn !== "all" && endless > 0) {
      warnings.push(
        `${source}: ${endless} of ${examples} examples end with no token that stops generation, so the model would not learn to stop; check eos_token and the chat template`,
      );
    }
    if (truncated > records / 10) {
      warnings.push(
        `${source}: ${truncated} of ${records} examples are cut at ${maxLength} tokens, and the end of their answers is lost`,
      );
    }
  }
  if (duplicates.shared > 0) {
    warnings.push(
      `${duplicates.shared} of ${evaluation!.records} evaluation records are training records, so the evaluation looks better than it is`,
    );
  }
  return warnings;
}

/** Fails if the base is for another task than the options say. */
function checkTask(config: ModelConfig, { base, task, ...columns }: PreviewOptions): void {
  const own = taskOf(config);
  checkColumns(own, columns);
  if (task === undefined || task === own) return;
  refuserOf("preview/option", config)("task", own, task, `Use a base for ${taskText[task]}, or leave out task: ${base} says it.`);
}

function checkOptions({ evalData, evalSplit, examples }: PreviewOptions): void {
  const refuse = (subject: string, message: string, expected: string, got: string): never => {
    throw new LowrankError("preview/option", message, { subject, expected, got, next: `Change ${subject}, or leave it out.` });
  };
  if (evalData !== undefined && evalSplit !== undefined) {
    refuse("evalSplit", "evalData and evalSplit cannot both be given", "one of evalData and evalSplit", "both");
  }
  if (evalSplit !== undefined && !(evalSplit > 0 && evalSplit < 1)) {
    refuse("evalSplit", "this share cannot be kept for evaluation", "a number above 0 and below 1", String(evalSplit));
  }
  if (examples !== undefined && !(Number.isSafeInteger(examples) && examples >= 0)) {
    refuse("examples", "this many examples cannot be shown", "an integer of at least 0", String(examples));
  }
}
