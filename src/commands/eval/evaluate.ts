// How well a base, alone and with an adapter, does on a data file: the forward pass of training, and what its task measures.

import { attach } from "../../adapters/attach.ts";
import { readAdapter } from "../../adapters/peft-files.ts";
import type { ExampleReport } from "../../data/dataset.ts";
import type { TrainOn } from "../../data/examples.ts";
import type { ColumnNames } from "../../data/records.ts";
import { checkColumns } from "../../data/task-records.ts";
import { LowrankError } from "../../errors.ts";
import { type AnyBase, openBase } from "../../models/base.ts";
import { refuserOf, taskOf } from "../../models/registry.ts";
import { type Task, taskText } from "../../models/task.ts";
import type { Runtime } from "../../platform/platform.ts";
import { targetsOf } from "../../train/batches.ts";
import { dataReader, evaluationBatches, finished, shapeOf } from "../../train/datasets.ts";
import { lossOf } from "../../train/task-loss.ts";
import { type ClassifierScore, type ContrastiveScore, type Measure, measures, type Score } from "./measures.ts";
import { comparison, openScoring } from "./scoring.ts";
import { hasClasses, zeroShot } from "./zero-shot.ts";

export interface EvaluateOptions<T extends EvaluatedTask = EvaluatedTask> extends ColumnNames {
  /** Folder of the base checkpoint. */
  base: string;
  /** A file of records, in any format of docs/data.md. */
  data: string;
  /** What the base has to be for, as in training. */
  task?: T;
  /** Folder of an adapter to evaluate beside the base. */
  adapter?: string;
  /** Take an adapter that was made for another base of the same shape. */
  anyBase?: boolean;
  /** As in training. */
  trainOn?: TrainOn;
  maxLength?: number;
  date?: string;
  /** Of a contrastive model on images with classes: what makes a text of a label, or several. "a photo of a {}" if absent. */
  template?: string | readonly string[];
  /**
   * Rows that are run at once. Default 4, for other models than language models 32. The loss of a contrastive model is one among so
   * many pairs, and depends on it.
   */
  batchSize?: number;
  /** Threads of one matrix product. Default: all cores. */
  threads?: number;
}

interface Evaluated<T, S, B = S> {
  task: T;
  data: ExampleReport;
  base: B;
  /** Null where no adapter was given. */
  adapter: S | null;
}

/** Scores of the base and of the adapter on it, by the base's task. A classifier whose head the adapter brings has none of its own. */
export type Evaluation =
  | Evaluated<"causal-lm", Score>
  | Evaluated<"sequence-classification", ClassifierScore, ClassifierScore | null>
  | Evaluated<"image-classification", ClassifierScore, ClassifierScore | null>
  | (Evaluated<"contrastive", ContrastiveScore> & { batchSize: number })
  | (Evaluated<"zero-shot", ClassifierScore> & { template: readonly string[] });

/** What was evaluated: the base's task, or zero-shot classification by a contrastive model. */
export type EvaluatedTask = Evaluation["task"];
export type EvaluationOf<T extends EvaluatedTask> = Extract<Evaluation, { task: T }>;

/**
 * Evaluates the base on a data file, and the adapter on it where one is given. A classifier's classes are the adapter's where it
 * names some, or the base's; others fail with `data/label`, and without any head it fails with `evaluate/no-head`. A contrastive
 * model on images with classes tells them by a text for each.
 */
export async function evaluate(options: EvaluateOptions, runtime: Runtime): Promise<Evaluation> {
  const { files, openSession, timeLimit, temporaryFolder } = runtime;
  const opened = await openBase(files, options.base, timeLimit);
  checkOptions(opened, options);
  const given = options.adapter === undefined ? null : await readAdapter(files, options.adapter);
  const { base, adapter } = given ? await attach(opened, given, options) : { base: opened, adapter: null };
  if (options.task !== "contrastive" && taskOf(base.config) === "contrastive" && (await hasClasses(runtime, options))) {
    return { task: "zero-shot", ...(await zeroShot(base, adapter, options, runtime)) };
  }
  const sides = await comparison(files, base, adapter);

  const task = taskOf(base.config);
  const { trainOn = "completion", batchSize = task === "causal-lm" ? 4 : 32, threads } = options;
  const spill = temporaryFolder && `${temporaryFolder}/lowrank-${crypto.randomUUID()}`;
  const reader = await dataReader(runtime, base, { ...options, trainOn }, { spill, fixedClasses: true });
  try {
    const { examples, report } = await finished(reader.read(options.data));
    const batches = evaluationBatches(reader.rows(examples), batchSize);
    const loss = lossOf(base.config, shapeOf(batches.sizes));
    const measuring = sides.map(
      (side) => side && measures[task]({ examples, labels: reader.labels() ?? [], openSession, threads }),
    );
    const scoring = await openScoring(base, adapter, loss, { openSession, threads });
    try {
      let number = 0;
      for await (const batch of batches) {
        const rows = batches.rows[number++]!;
        for (const [i, theta] of sides.entries()) {
          if (theta && targetsOf(batch) > 0) await measuring[i]!.add({ batch, rows, results: await scoring.run(batch, theta) });
        }
      }
    } finally {
      await scoring.close();
    }
    const [own, adapted] = [await measuring[0]?.score(), await measuring[1]?.score()];
    return evaluated(task, report, own ?? null, adapted ?? null, batchSize);
  } finally {
    await reader.close();
  }
}

/** The scores are those of the task's measure. */
function evaluated(
  task: Task | "causal-lm",
  data: ExampleReport,
  base: Awaited<ReturnType<Measure["score"]>> | null,
  adapter: Awaited<ReturnType<Measure["score"]>> | null,
  batchSize: number,
): Evaluation {
  return { task, data, base, adapter, ...(task === "contrastive" && { batchSize }) } as Evaluation;
}

/** Fails if the options cannot be met, or are for another task than the base's. */
function checkOptions({ config, checkpoint }: AnyBase, { task, template, batchSize = 1, ...columns }: EvaluateOptions): void {
  if (!(Number.isSafeInteger(batchSize) && batchSize > 0)) {
    throw new LowrankError("evaluate/option", "the number of rows that are run at once is no whole number above 0", {
      subject: "batchSize",
      expected: "1 or more",
      got: String(batchSize),
      next: "Correct it, or leave it out.",
    });
  }
  const own = taskOf(config);
  const refuse = refuserOf("evaluate/option", config);
  const wanted = task === "zero-shot" ? "contrastive" : task;
  if (wanted !== undefined && wanted !== own) {
    refuse("task", own, task!, `Use a base for ${taskText[wanted]}, or leave out task: ${checkpoint.folder} says it.`);
  }
  if (template !== undefined && own !== "contrastive") {
    refuse("template", "a model that compares images and texts (clip)", String(template), "Leave out the template.");
  }
  checkColumns(own, columns);
}
