// What the options of `train` have to be.

import type { Batch } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import { sizeOf } from "../tensor.ts";
import { schedules } from "./schedule.ts";
import type { TrainOptions } from "./trainer.ts";

/** Throws `train/option` that names the first option that can't be trained with. */
export async function checkOptions(options: TrainOptions): Promise<void> {
  const { objective, theta, steps, epochs, optimizer, evaluation, output } = options;
  const wrong = (subject: string, expected: string, got: unknown): never => {
    throw new LowrankError("train/option", "this value can't be trained with", {
      subject,
      expected,
      got: String(got),
      next: `Give ${subject} another value.`,
    });
  };
  const atLeast = (subject: string, value: number | undefined, least: number): void => {
    if (value !== undefined && !(Number.isInteger(value) && value >= least)) wrong(subject, `an integer from ${least}`, value);
  };
  const positive = (subject: string, value: number | undefined): void => {
    if (value !== undefined && !(value > 0 && Number.isFinite(value))) wrong(subject, "a positive number", value);
  };
  let end = 0;
  for (const { key, offset, shape } of objective.entries) {
    if (offset !== end) wrong(`objective.entries: ${key}`, `offset ${end}, behind the entry before it`, offset);
    end += sizeOf(shape);
  }
  if (theta.length !== end || end === 0) wrong("theta", `the ${end} parameters of the objective, at least one`, theta.length);
  if ((steps === undefined) === (epochs === undefined)) wrong("steps, epochs", "one of the two", `${steps}, ${epochs}`);
  atLeast("steps", steps, 1);
  positive("epochs", epochs);
  positive("learningRate", optimizer.learningRate);
  positive("maxGradNorm", optimizer.maxGradNorm);
  positive("loraPlusRatio", optimizer.loraPlusRatio);
  positive("eps", optimizer.eps);
  if (!(optimizer.weightDecay >= 0 && Number.isFinite(optimizer.weightDecay)))
    wrong("weightDecay", "a number from 0", optimizer.weightDecay);
  for (const beta of ["beta1", "beta2"] as const) {
    if (!(optimizer[beta] >= 0 && optimizer[beta] < 1)) wrong(beta, "a number from 0, below 1", optimizer[beta]);
  }
  if (!Object.hasOwn(schedules, optimizer.schedule)) wrong("schedule", Object.keys(schedules).join(", "), optimizer.schedule);
  atLeast("warmupSteps", optimizer.warmupSteps, 0);
  atLeast("evaluation.every", evaluation?.every, 1);
  if (evaluation && !(await hasTargets(evaluation.batches))) wrong("evaluation.batches", "at least one target token", 0);
  atLeast("evaluation.early.patience", evaluation?.early?.patience, 1);
  const minDelta = evaluation?.early?.minDelta ?? 0;
  if (!(minDelta >= 0 && Number.isFinite(minDelta))) wrong("evaluation.early.minDelta", "a number from 0", minDelta);
  atLeast("output.checkpointEvery", output?.checkpointEvery, 1);
  positive("output.checkpointMinutes", output?.checkpointMinutes);
  atLeast("output.keepCheckpoints", output?.keepCheckpoints, 1);
}

async function hasTargets(batches: Iterable<Batch> | AsyncIterable<Batch>): Promise<boolean> {
  for await (const batch of batches) if (batch.targets > 0) return true;
  return false;
}
