// A trial at work, in the processes of a group: it is trained from where it stands to the next comparison, and a few steps of one are measured.
import { stopwatch } from "../../clock.ts";
import { alone } from "../../distributed/communicator.ts";
import { tell } from "../../distributed/exchange.ts";
import { LowrankError } from "../../errors.ts";
import type { Platform } from "../../platform/platform.ts";
import type { sharedOptions } from "../../sweep/options.ts";
import type { Measured } from "../../sweep/plan.ts";
import type { Trial } from "../../sweep/record.ts";
import type { FinetuneOptions } from "../../train/options.ts";
import { readMetrics } from "../../train/run-log.ts";
import type { FinetuneEvent } from "../train/finetune.ts";

/** The options of a trial but for its length and its folder. */
export type TrialOptions = ReturnType<typeof sharedOptions> & Partial<FinetuneOptions>;

/** A trial up to a step, from where it stands. */
export interface Leg {
  folder: string;
  options: TrialOptions;
  /** The step that it is trained to, of so many. */
  to: number;
  steps: number;
  evalEvery: number;
  measured: Measured;
}

/** Trains a run; `finetune`, but for tests of the sweep itself. */
export type Train = (options: FinetuneOptions, host: Platform) => AsyncIterable<FinetuneEvent>;

export type LegStep = Extract<FinetuneEvent, { type: "step" }>;

/** What is known of a trial behind a leg. */
export interface LegResult extends Pick<Trial, "trainable" | "failure"> {
  /** From its log; null where it has none. */
  logged: Pick<Trial, "losses" | "stepSeconds"> | null;
  /** Why it has not come to its step. */
  end: "stopped" | "budget" | null;
}

/** Failures of a trial that are a result: others end the sweep. */
const RESULTS = new Set(["train/non-finite", "train/memory", "train/disk"]);

/** Steps that are measured before there is a plan. */
const MEASURED_STEPS = 3;
/** Begins the names of the folders that it is done in. */
export const MEASURING = ".measuring";

const CHECKPOINT_MINUTES = 2;

/** Trains a trial to the step of the leg, within `left` seconds. The first process of the group knows what came of it. */
export async function* runLeg(
  train: Train,
  host: Platform,
  leg: Leg,
  left: number | null,
  signal: AbortSignal | undefined,
): AsyncGenerator<LegStep, LegResult, void> {
  const { team = alone } = host;
  const { folder, to, steps, evalEvery, measured } = leg;
  const isFirst = team.rank === 0;
  const elapsed = stopwatch();
  const isOver = (more: number) => isFirst && left !== null && elapsed() + more > left;
  const result: LegResult = { logged: null, trainable: null, failure: null, end: null };
  const isThere = async (): Promise<boolean> => {
    const { isDone, ...found } = await readLog(host, leg);
    result.logged = found.logged;
    return isDone;
  };
  const begins = await tell(team, 0, "whether the trial goes on", async () => {
    if (await isThere()) return false;
    if (isOver(measured.open)) result.end = "budget";
    return result.end === null;
  });
  if (!begins) return result;
  const stop = new AbortController();
  const own = { checkpointMinutes: CHECKPOINT_MINUTES, keepCheckpoints: 1, output: folder, resume: true };
  try {
    for await (const event of run(train, host, { ...leg.options, steps, evalEvery, ...own }, stop, signal)) {
      if (event.type === "prepared") result.trainable = event.trainable;
      if (event.type === "step") {
        yield event;
        if (isOver(event.step % evalEvery === 0 || event.step === steps ? measured.evaluation : 0)) {
          result.end = "budget";
          stop.abort();
        }
      }
      if (event.type === "eval" && event.step >= to && to < steps) stop.abort();
    }
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    if (RESULTS.has(error.code)) result.failure = error.message;
    else if (!wasStopped(error, signal)) throw error;
  }
  if (!isFirst) return result;
  const isDone = await isThere();
  if (signal?.aborted || (!isDone && result.failure === null && result.end === null)) result.end = "stopped";
  if (isDone && to === steps) await removeCheckpoints(host, folder);
  return result;
}

/** Trains a few steps and evaluates once, in a folder that is removed; null where that is stopped. */
export async function measure(
  train: Train,
  host: Platform,
  options: TrialOptions,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<Measured | null> {
  const isFirst = (host.team?.rank ?? 0) === 0;
  const remove = () => (isFirst ? host.files.remove(folder) : undefined);
  await remove();
  const stop = new AbortController();
  const elapsed = stopwatch();
  const times: number[] = [];
  let [steps, open, at] = [0, 0, 0];
  let evaluation: number | null = null;
  try {
    const own = { evalEvery: MEASURED_STEPS, checkpointMinutes: 60, output: folder };
    for await (const event of run(train, host, { ...options, ...own }, stop, signal)) {
      if (event.type === "start") steps = event.steps;
      if (event.type === "step") {
        if (times.length === 0) open = Math.max(0, elapsed() - event.seconds);
        times.push(event.seconds);
        at = elapsed();
      }
      if (event.type === "eval") {
        evaluation ??= elapsed() - at;
        stop.abort();
      }
    }
  } catch (error) {
    if (!wasStopped(error, signal)) throw error;
  }
  await remove();
  return signal?.aborted || evaluation === null ? null : { open, step: median(times), evaluation, steps };
}

export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/**
 * The events of a run that ends when `stop` or `signal` fires. Of several processes that train together one may not end before they
 * train, since the others would wait for it.
 */
async function* run(
  train: Train,
  host: Platform,
  options: object,
  stop: AbortController,
  signal: AbortSignal | undefined,
): AsyncGenerator<FinetuneEvent, void, void> {
  const isTogether = (host.team?.size ?? 1) > 1;
  const own = signal && !isTogether ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  for await (const event of train({ ...options, signal: own } as FinetuneOptions, host)) {
    yield event;
    if (signal?.aborted && (event.type === "start" || event.type === "step")) stop.abort();
  }
}

/** Whether an error says that the signal ended the reading of data. */
const wasStopped = (error: unknown, signal: AbortSignal | undefined): boolean =>
  signal?.aborted === true && error instanceof LowrankError && error.code === "train/stopped";

/** What the log of a trial says of it; whether it has come to the leg's step, and has its result if that is its last. */
async function readLog(
  { files }: Platform,
  { folder, to, steps: length }: Leg,
): Promise<Pick<LegResult, "logged"> & { isDone: boolean }> {
  const metrics = await readMetrics(files, folder);
  if (!metrics) return { logged: null, isDone: false };
  const { steps, evals, end } = metrics;
  const losses = evals.map(({ step, loss }) => {
    return { step, loss, seconds: steps.reduce((sum, row) => sum + (row.step <= step ? row.seconds : 0), 0) };
  });
  const stepSeconds = steps.length > 0 ? median(steps.slice(-5).map(({ seconds }) => seconds)) : null;
  const isWhole = to < length || (end?.type === "done" && end.result !== null);
  return { logged: { losses, stepSeconds }, isDone: isWhole && losses.some(({ step }) => step === to) };
}

/** What a trial that has its result went on from. */
async function removeCheckpoints({ files }: Platform, folder: string): Promise<void> {
  for (const name of await files.list(folder)) if (/^checkpoint-\d+$/.test(name)) await files.remove(`${folder}/${name}`);
}
