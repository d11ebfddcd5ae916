// sweep.json: the options of a sweep, its plan, its trials and what was compared at each rung. A file from a stranger may have anything.
import { z } from "zod";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { readVersioned } from "../formats/json.ts";
import { type Settings, settingsKey, sweepMethodNames } from "./space.ts";

export const SWEEP_NAME = "sweep.json";
export const SWEEP_VERSION = 1;

/** More trials are no sweep that this program has made. */
const MAX_TRIALS = 10_000;
const MAX_LOSSES = 100;
const MAX_RUNGS = 100;

const seconds = z.number().nonnegative();
const count = z.int().positive();
const settings = z.strictObject({
  method: z.enum(sweepMethodNames),
  rank: count.nullable(),
  alpha: z.number().positive().nullable(),
  targets: z.string().min(1).max(10_000).nullable(),
  learningRate: z.number().positive(),
});

const trial = z.strictObject({
  settings,
  seed: z.int(),
  /** Trained parameters; null before it has begun. */
  trainable: z.int().nonnegative().nullable(),
  /** Evaluations, in order of steps; `seconds` are those in steps until then. */
  losses: z.array(z.strictObject({ step: count, loss: z.number(), seconds })).max(MAX_LOSSES),
  /** Seconds of the newest steps, in the middle. */
  stepSeconds: seconds.nullable(),
  /** Why it ended before its time, such as a loss that is not finite. */
  failure: z.string().nullable(),
});

const record = z.strictObject({
  version: z.literal(SWEEP_VERSION),
  /** As given, with absolute paths. */
  options: z.record(z.string(), z.unknown()),
  measured: z.strictObject({ open: seconds, step: seconds, evaluation: seconds, steps: count }).nullable(),
  plan: z
    .strictObject({
      steps: count,
      rungs: z.array(count).min(1).max(MAX_RUNGS),
      counts: z.array(z.int().nonnegative()),
      seconds: z.array(seconds),
    })
    .nullable(),
  trials: z.array(trial).max(MAX_TRIALS),
  /** The trials (by their places among `trials`) that are trained up to `step`; none where there was no time for them. */
  rungs: z.array(z.strictObject({ phase: z.string().max(100), step: count, trials: z.array(z.int().nonnegative()) })),
  /** What it has taken. */
  seconds,
  /** null: it is at work, or was interrupted. */
  ended: z.enum(["finished", "budget"]).nullable(),
  /** What trains the winner, once there is one. */
  command: z.string().nullable(),
});

export type SweepRecord = z.output<typeof record>;
export type Trial = SweepRecord["trials"][number];
export type Rung = SweepRecord["rungs"][number];

export const newRecord = (options: Record<string, unknown>): SweepRecord => {
  return {
    version: SWEEP_VERSION,
    options,
    measured: null,
    plan: null,
    trials: [],
    rungs: [],
    seconds: 0,
    ended: null,
    command: null,
  };
};

/** The folder of a trial in that of its sweep. */
export const trialName = (index: number): string => `trial-${String(index + 1).padStart(2, "0")}`;

/** Whether a folder is that of a sweep. */
export const isSweep = (files: Files, folder: string): Promise<boolean> => files.exists(`${folder}/${SWEEP_NAME}`);

/** Throws `sweep/record` for what no sweep has written. */
export async function readSweep(files: Files, folder: string): Promise<SweepRecord> {
  const subject = `${folder}/${SWEEP_NAME}`;
  const parsed = record.safeParse(await readVersioned(files, subject, SWEEP_VERSION));
  const { data, error } = parsed;
  const wrong = (where: string, expected: string): LowrankError =>
    new LowrankError("sweep/record", "the file is not the record of a sweep", {
      subject,
      expected,
      got: `another value of ${where}`,
      next: "Sweep into another folder.",
    });
  if (!data) throw wrong(error.issues[0]!.path.join(".") || "the file", error.issues[0]!.message);
  const outside = data.rungs.findIndex(({ trials }) => trials.some((index) => index >= data.trials.length));
  if (outside >= 0) throw wrong(`rungs.${outside}.trials`, "places of trials");
  const keys = new Set(data.trials.map((one) => `${settingsKey(one.settings)} ${one.seed}`));
  if (keys.size < data.trials.length) throw wrong("trials", "each with other settings");
  return data;
}

export const writeSweep = (files: Files, folder: string, kept: SweepRecord): Promise<void> =>
  files.write(`${folder}/${SWEEP_NAME}`, new TextEncoder().encode(`${JSON.stringify(kept, null, 2)}\n`));

/** The trials of the same settings, with other seeds, and what they came to. */
export interface Cell {
  settings: Settings;
  /** Places among the trials of the record. */
  trials: number[];
}

/** The trials by their settings, in order. */
export function cellsOf({ trials }: SweepRecord, which: readonly number[] = trials.map((_, i) => i)): Cell[] {
  const cells = new Map<string, Cell>();
  for (const index of which) {
    const own = trials[index]!.settings;
    const cell = cells.get(settingsKey(own)) ?? { settings: own, trials: [] };
    cells.set(settingsKey(own), cell);
    cell.trials.push(index);
  }
  return [...cells.values()];
}

export const hasFailed = ({ trials }: SweepRecord, cell: Cell): boolean =>
  cell.trials.some((index) => trials[index]!.failure !== null);

/** The loss of a trial after `step` steps; undefined before. */
export const lossAt = ({ losses }: Trial, step: number): number | undefined => losses.find((one) => one.step === step)?.loss;

/** The mean loss of a cell's trials after `step` steps; undefined where one of them has none. */
export function meanAt({ trials }: SweepRecord, cell: Cell, step: number): number | undefined {
  const losses = cell.trials.map((index) => lossAt(trials[index]!, step));
  return losses.reduce<number | undefined>(
    (sum, loss) => (sum === undefined || loss === undefined ? undefined : sum + loss / losses.length),
    0,
  );
}

/** The cells by the last step that they were evaluated after, later ones first, then by their loss there: the best so far is first. */
export function ranked(kept: SweepRecord, which?: readonly number[]): { cell: Cell; step: number; loss: number }[] {
  const rungs = [...(kept.plan?.rungs ?? [])].reverse();
  const found = cellsOf(kept, which)
    .filter((cell) => !hasFailed(kept, cell))
    .flatMap((cell) => {
      const step = rungs.find((rung) => meanAt(kept, cell, rung) !== undefined);
      return step === undefined ? [] : [{ cell, step, loss: meanAt(kept, cell, step)! }];
    });
  return found.sort((a, b) => b.step - a.step || a.loss - b.loss);
}
