// How well a base, alone and with an adapter, does on a data file: the forward pass of training, and what its task measures.

import { openAdapter } from "../../adapters/peft-files.ts";
import { evaluationBatches } from "../../data/collate.ts";
import type { ExampleReport } from "../../data/dataset.ts";
import type { Batch } from "../../data/types.ts";
import type { BaseDtype } from "../../graph/pack.ts";
import { openBase } from "../../models/base.ts";
import type { ModelConfig } from "../../models/registry.ts";
import { checkCounts, type Given } from "../../options.ts";
import { onDevice } from "../../platform/devices.ts";
import type { Platform } from "../../platform/platform.ts";
import type { DeviceChoice } from "../../runtime/devices.ts";
import type { ClassifierScore } from "../../tasks/common/classification.ts";
import {
  checkColumns,
  checkOwnOptions,
  type HeadTask,
  optionMismatch,
  prepareBase,
  type ScoreOf,
  type TaskName,
  taskOf,
} from "../../tasks/index.ts";
import { dataReader, finished, shapeOf } from "../../train/datasets.ts";
import { measureBatches, runEach } from "../../train/evals.ts";
import type { readingOptions } from "../../train/options.ts";
import { comparison, openScoring } from "./scoring.ts";
import { hasClasses, scoreZeroShot } from "./zero-shot.ts";

export interface EvaluateOptions<T extends EvaluatedTask = EvaluatedTask> extends Given<typeof readingOptions> {
  /** Folder of the base checkpoint. */
  base: string;
  /** A file of records, in any format of docs/data.md. */
  data: string;
  /** What the base is evaluated for; by its config, or its adapter, if absent. */
  task?: T;
  /** Folder of an adapter to evaluate beside the base. */
  adapter?: string;
  /** Take an adapter that was made for another base of the same shape. */
  anyBase?: boolean;
  /** Of images with classes, classified by texts: what makes a text of a label, or several. "a photo of a {}" if absent. */
  template?: string | readonly string[];
  /** Rows that are run at once, if not as many as the task does by itself. The loss of pairs is one among so many of them. */
  batchSize?: number;
  /** What the base's weights are kept in. Default: float32. */
  baseDtype?: BaseDtype;
  /** Threads of one matrix product. Default: all cores. */
  threads?: number;
  /** What computes. Default: the processor. */
  device?: DeviceChoice;
}

interface Evaluated<T, S, B> {
  task: T;
  data: ExampleReport;
  base: B;
  /** Null where no adapter was given. */
  adapter: S | null;
  /** Rows that were run at once. */
  batchSize: number;
}

/** Scores of the base and of the adapter on it, by task. A classifier whose head the adapter brings has none of its own. */
export type Evaluation =
  | { [T in TaskName]: Evaluated<T, ScoreOf<T>, T extends HeadTask ? ScoreOf<T> | null : ScoreOf<T>> }[TaskName]
  | (Omit<Evaluated<"zero-shot", ClassifierScore, ClassifierScore>, "batchSize"> & { template: readonly string[] });

/** What was evaluated: a task, or zero-shot classification. */
export type EvaluatedTask = Evaluation["task"];
export type EvaluationOf<T extends EvaluatedTask> = Extract<Evaluation, { task: T }>;

/**
 * Evaluates the base on a data file, and the adapter on it where one is given. A classifier's classes are the adapter's where it
 * names some, or the base's; others fail with `data/label`, and without any head it fails with `evaluate/no-head`. A model that compares
 * images and texts classifies images by a text for each class.
 */
export async function evaluate(options: EvaluateOptions, host: Platform): Promise<Evaluation> {
  const platform = await onDevice(host, options.device);
  const { files, openSession, timeLimit, temporaryFolder } = platform;
  checkCounts("evaluate/option", { batchSize: options.batchSize });
  const opened = await openBase(files, options.base, timeLimit);
  const given = options.adapter === undefined ? null : await openAdapter(files, options.adapter, platform.adapterLimits);
  const wanted = options.task === "zero-shot" ? undefined : options.task;
  const { name, task, base, adapter } = await prepareBase("evaluate/option", opened, given, { ...options, task: wanted });
  checkOptions(opened.config, name, options);
  if (wanted === undefined && task.prediction.zeroShot && (await hasClasses(base, options, platform))) {
    return { task: "zero-shot", ...(await scoreZeroShot(base, adapter, options, platform)) };
  }
  const sides = await comparison(files, base, adapter);

  const { trainOn = "completion", batchSize = task.evalBatchSize, baseDtype, threads } = options;
  const engine = { openSession, baseDtype, threads };
  task.check?.(base, { batchSize });
  const spill = temporaryFolder && `${temporaryFolder}/lowrank-${crypto.randomUUID()}`;
  const reader = dataReader(files, await task.data(base, { ...options, trainOn, fixedClasses: true }, platform), {
    spill,
    strictText: options.strictText,
  });
  try {
    const { examples, report } = await finished(reader.read(options.data));
    const plain = reader.collate(examples);
    const loss = task.loss(base.config, shapeOf(evaluationBatches(plain, batchSize).sizes), { ...options });
    const measured = { examples, labels: reader.labels() ?? [], engine };
    const compared = sides.map((side) => side && { side, measure: task.measure(measured) });
    const scoring = await openScoring(base, adapter, loss, engine);
    try {
      const off = sides[0] ?? { adapter: null, saved: sides[1]!.saved };
      const start = { batchSize, run: runEach((batch) => scoring.run(batch, off)) };
      const batches = evaluationBatches(task.prepare ? await task.prepare(plain, start) : plain, batchSize);
      const runs = compared.flatMap((one) =>
        one ? [{ run: (batch: Batch) => scoring.run(batch, one.side), measure: one.measure }] : [],
      );
      await measureBatches(batches, runs);
    } finally {
      await scoring.close();
    }
    const scores: unknown[] = [];
    for (const one of compared) scores.push(one && (await one.measure.score()));
    // The scores are those of the task's measure.
    return { task: name, data: report, base: scores[0], adapter: scores[1], batchSize } as Evaluation;
  } finally {
    await reader.close();
  }
}

/** Fails if the options are for another task than `name`. */
function checkOptions(config: ModelConfig, name: TaskName, { task, template, ...columns }: EvaluateOptions): void {
  const isZeroShot = taskOf(name).prediction.zeroShot === true;
  const refuse = (subject: string, expected: string, got: string, next: string): never => {
    throw optionMismatch("evaluate/option", config, name, { subject, expected, got, next });
  };
  const wanted = "a model that compares images and texts (clip)";
  if (template !== undefined && !isZeroShot) refuse("template", wanted, String(template), "Leave out the template.");
  if (task === "zero-shot" && !isZeroShot)
    refuse("task", name, task, "Use a base that compares images and texts, or leave out task.");
  checkColumns(name, columns);
  checkOwnOptions("evaluate/option", config, name, { ...columns });
}
