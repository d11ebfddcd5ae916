// What the options of `train` have to be.

import type { Batch } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import { sizeOf } from "../tensor.ts";
import { schedules } from "./schedule.ts";
import type { TrainOptions } from "./trainer.ts";

type Rule = readonly [expected: string, holds: (value: number) => boolean];
const atLeast = (least: number): Rule => [`an integer from ${least}`, (value) => Number.isInteger(value) && value >= least];
const positive: Rule = ["a positive number", (value) => value > 0 && Number.isFinite(value)];
const notNegative: Rule = ["a number from 0", (value) => value >= 0 && Number.isFinite(value)];
const share: Rule = ["a number from 0, below 1", (value) => value >= 0 && value < 1];

/** Throws `train/option` that names an option that can't be trained with. */
export async function checkOptions(options: TrainOptions): Promise<void> {
  const { objective, theta, steps, epochs, optimizer, evaluation, output } = options;
  const wrong = (subject: string, expected: string, got: unknown): never => {
    const failure = { subject, expected, got: String(got), next: `Give ${subject} another value.` };
    throw new LowrankError("train/option", "this value can't be trained with", failure);
  };
  let end = 0;
  for (const { key, offset, shape } of objective.entries) {
    if (offset !== end) wrong(`objective.entries: ${key}`, `offset ${end}, behind the entry before it`, offset);
    end += sizeOf(shape);
  }
  if (theta.length !== end || end === 0) wrong("theta", `the ${end} parameters of the objective, at least one`, theta.length);
  if ((steps === undefined) === (epochs === undefined)) wrong("steps, epochs", "one of the two", `${steps}, ${epochs}`);
  const numbers: [subject: string, value: number | undefined, rule: Rule][] = [
    ["steps", steps, atLeast(1)],
    ["epochs", epochs, positive],
    ["learningRate", optimizer.learningRate, positive],
    ["maxGradNorm", optimizer.maxGradNorm, positive],
    ["loraPlusRatio", optimizer.loraPlusRatio, positive],
    ["eps", optimizer.eps, positive],
    ["weightDecay", optimizer.weightDecay, notNegative],
    ["beta1", optimizer.beta1, share],
    ["beta2", optimizer.beta2, share],
    ["warmupSteps", optimizer.warmupSteps, atLeast(0)],
    ["evaluation.every", evaluation?.every, atLeast(1)],
    ["evaluation.early.patience", evaluation?.early?.patience, atLeast(1)],
    ["evaluation.early.minDelta", evaluation?.early?.minDelta, notNegative],
    ["output.checkpointEvery", output?.checkpointEvery, atLeast(1)],
    ["output.checkpointMinutes", output?.checkpointMinutes, positive],
    ["output.keepCheckpoints", output?.keepCheckpoints, atLeast(1)],
  ];
  for (const [subject, value, [expected, holds]] of numbers)
    if (value !== undefined && !holds(value)) wrong(subject, expected, value);
  if (!Object.hasOwn(schedules, optimizer.schedule)) wrong("schedule", Object.keys(schedules).join(", "), optimizer.schedule);
  if (evaluation && !(await hasTargets(evaluation.batches))) wrong("evaluation.batches", "at least one target token", 0);
}

async function hasTargets(batches: Iterable<Batch> | AsyncIterable<Batch>): Promise<boolean> {
  for await (const batch of batches) if (batch.targets > 0) return true;
  return false;
}
