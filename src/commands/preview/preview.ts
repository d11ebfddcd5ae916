// What a run would train on: examples, lengths, classes, what is lost, duplicates. No weight is read.
import { z } from "zod";
import { type ControlTextCounts, controlTextCounts, controlTextNotes } from "../../data/control-text.ts";
import { type RecordKey, seenRecords } from "../../data/duplicates.ts";
import { LowrankError } from "../../errors.ts";
import { loadTextBase } from "../../models/base.ts";
import { checkCounts, type Given, option, pick, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import type { ShownExample } from "../../tasks/common/preview.ts";
import { baseFor, checkColumns, chooseTask, type TaskName, taskOf } from "../../tasks/index.ts";
import type { PreviewedFiles } from "../../tasks/task.ts";
import { dataReader } from "../../train/datasets.ts";
import { readingOptions, runOptions } from "../../train/options.ts";
import { grouped } from "../../units.ts";

/** Options of a run that say what it reads, and how much of it is shown. */
export const previewOptions = {
  ...pick(runOptions, "base", "data", "task", "evalData", "evalSplit"),
  seed: reworded(runOptions.seed, { help: "the run's, which chooses the records of --eval-split" }),
  ...readingOptions,
  examples: option(z.number().default(3), { help: "how many examples are shown" }),
  ids: option(z.boolean().optional(), { help: "with --json, the examples' token ids too" }),
};
export type PreviewOptions = Given<typeof previewOptions>;

export interface Preview extends PreviewedFiles {
  task: TaskName;
  /** Records with texts that do not reach the model as text, and the first of each file. */
  control: { train: ControlTextCounts; evaluation: ControlTextCounts };
  duplicates: {
    /** Records that occur more than once in the same file. */
    train: number;
    evaluation: number;
    /** Training records that contradict one before: the same text or image with another answer. */
    contradicting: number;
    /** Records of the evaluation that are training records. */
    shared: number;
    /** Others of the evaluation whose prompt, text or image is that of a training record. */
    sameQuestion: number;
  };
  shown: ShownExample[];
  /** What a person should look at before training. */
  warnings: string[];
}

/**
 * Looks at data as a run with these options would read it, one record at a time. Throws what the run would, except that
 * data without a target are reported by a warning.
 */
export async function preview(options: PreviewOptions, platform: Platform): Promise<Preview> {
  checkOptions(options);
  const { data: path, evalData, evalSplit, seed = 0, trainOn = "completion", strictText } = options;
  const { examples = 3, ids = false } = options;
  const { files, timeLimit } = platform;
  const opened = await loadTextBase(files, options.base, timeLimit);
  const name = chooseTask("preview/option", opened.config, options.task);
  checkColumns(name, { ...options });
  const task = taskOf(name);
  const base = baseFor(opened, name, { ...options });
  const data = await task.data(base, { ...options, trainOn }, platform);
  const reader = dataReader(files, data, { strictText });
  const { stats, show, warnings } = await task.preview({ base, data, platform, ids });
  const held = evalSplit === undefined ? new Set<number>() : await reader.held(path, evalSplit, seed);

  const train = stats(path);
  const hasEvaluation = evalData !== undefined || evalSplit !== undefined;
  const evaluation = hasEvaluation ? stats(evalData ?? path) : null;
  const [trained, evaluated] = [seenRecords(), seenRecords()];
  const control = { train: controlTextCounts(), evaluation: controlTextCounts() };
  const duplicates = { train: 0, evaluation: 0, contradicting: 0, shared: 0, sameQuestion: 0 };
  const first: Parameters<typeof show>[0][] = [];
  /** The records for evaluation; those of a split are compared when all of the training's are known. */
  const others: RecordKey[] = [];
  const hold = (made: Parameters<typeof show>[0]) => {
    evaluation!.add(made);
    control.evaluation.add(made.control, made.place);
    others.push(made.key);
  };
  let index = 0;
  const read = reader.open(path);
  for await (const made of read.examples) {
    if (held.has(index++)) {
      hold(made);
      continue;
    }
    train.add(made);
    control.train.add(made.control, made.place);
    if (trained.has(made.key)) duplicates.train++;
    else if (trained.asked(made.key)) duplicates.contradicting++;
    trained.add(made.key);
    if (first.length < examples) first.push(made);
  }
  // From here on other classes are refused, as in training.
  if (index > 0) reader.classes?.settle(path);
  const readToo = evalData === undefined ? read : reader.open(evalData);
  if (readToo !== read) for await (const made of readToo.examples) hold(made);
  for (const key of others) {
    if (evaluated.has(key)) duplicates.evaluation++;
    evaluated.add(key);
    if (trained.has(key)) duplicates.shared++;
    else if (trained.asked(key)) duplicates.sameQuestion++;
  }
  const shown: ShownExample[] = [];
  for (const made of first) shown.push(await show(made));
  const found = {
    task: name,
    maxLength: base.config.vocabSize > 0 ? data.maxLength : null,
    trainOn,
    train: train.total(read.file.recognized()),
    evaluation: evaluation?.total(readToo.file.recognized()) ?? null,
    control: { train: control.train.counts, evaluation: control.evaluation.counts },
    duplicates,
    shown,
  };
  return { ...found, warnings: [...warnings(found), ...controlWarnings(found)] };
}

function controlWarnings({ train, evaluation, control }: Omit<Preview, "warnings">): string[] {
  const of = (file: typeof evaluation, counts: ControlTextCounts) =>
    controlTextNotes(counts).map(([n, text]) => `${file!.source}: ${grouped(n)} of ${grouped(file!.records)} records ${text}`);
  return [...of(train, control.train), ...of(evaluation, control.evaluation)];
}

function checkOptions({ evalData, evalSplit, examples }: PreviewOptions): void {
  checkCounts("preview/option", { examples }, { least: 0 });
  const refuse = (message: string, expected: string, got: string): never => {
    const facts = { subject: "evalSplit", expected, got, next: "Change evalSplit, or leave it out." };
    throw new LowrankError("preview/option", message, facts);
  };
  if (evalSplit === undefined) return;
  if (evalData !== undefined) refuse("evalData and evalSplit cannot both be given", "one of evalData and evalSplit", "both");
  if (evalSplit > 0 && evalSplit < 1) return;
  refuse("this share cannot be kept for evaluation", "a number above 0 and below 1", String(evalSplit));
}
