// A sweep: measures a step, plans trials that fit into the time, trains them rung by rung, and keeps all of it in its folder. What is done
// next follows from sweep.json and the logs of the trials alone, so that a sweep which was stopped or killed goes on as if it had not been.

import { stopwatch } from "../../clock.ts";
import { LowrankError } from "../../errors.ts";
import { openBase } from "../../models/base.ts";
import type { Platform } from "../../platform/platform.ts";
import { changeable, completeSweep, type SweepGiven, type SweepOptions, sharedOptions } from "../../sweep/options.ts";
import { type Outcome, outcomeOf } from "../../sweep/outcome.ts";
import { evalEvery, keptOf, type Measured, type Plan, planGrid, planSweep, rungSeconds } from "../../sweep/plan.ts";
import {
  type Cell,
  cellsOf,
  hasFailed,
  isSweep,
  lossAt,
  meanAt,
  newRecord,
  type Rung,
  ranked,
  readSweep,
  SWEEP_NAME,
  type SweepRecord,
  type Trial,
  trialName,
  writeSweep,
} from "../../sweep/record.ts";
import {
  gridOf,
  type Phase,
  phasesOf,
  type Settings,
  settingsKey,
  settingsOptions,
  spaceOf,
  sweepMethod,
} from "../../sweep/space.ts";
import type { FinetuneOptions } from "../../train/options.ts";
import { outputFiles } from "../../train/output-files.ts";
import { makeOutput } from "../../train/preflight.ts";
import { trainCommand, withAbsolutePaths } from "../../train/run-file.ts";
import { readMetrics } from "../../train/run-log.ts";
import { type FinetuneEvent, finetune } from "../train/finetune.ts";

/** What `sweep` reports. `trial` is its place among the trials, from 0; times are in seconds. */
export type SweepEvent =
  | { type: "measuring" }
  | { type: "plan"; phases: string[]; plan: Plan; measured: Measured; limit: number | null; spent: number }
  /** A trial goes on, up to step `to` of `steps`; it is number `number` of `count` trials of the rung. */
  | ({ type: "trial"; to: number; steps: number; number: number; count: number } & TrialFacts)
  | { type: "step"; trial: number; step: number; loss: number; secondsLeft: number; memoryBytes: number | null }
  | { type: "score"; trial: number; step: number; loss: number }
  | { type: "failure"; trial: number; message: string }
  /** What was compared at a rung, the best first. */
  | { type: "rung"; phase: string; step: number; cells: { settings: Settings; loss: number | null }[] }
  /** With the command that trains the winner. `stopped`: by the signal; `ended`: by the plan, or by the time. */
  | ({ type: "done"; stopped: boolean; ended: SweepRecord["ended"]; spent: number; command: string } & Outcome)
  /** It was stopped, or its time was over, before anything could be compared. */
  | { type: "stopped"; spent: number };

interface TrialFacts {
  phase: string;
  trial: number;
  folder: string;
  settings: Settings;
  seed: number;
}

/** Failures of a trial that are a result: others end the sweep. */
const RESULTS = new Set(["train/non-finite", "train/memory", "train/disk"]);

/** Steps that are measured before there is a plan, in a folder of their own. */
const MEASURED_STEPS = 3;
const MEASURING = ".measuring";

const CHECKPOINT_MINUTES = 2;

/** The API's `sweep` (core.ts). */
export async function* sweep({ signal, ...wanted }: SweepGiven, host: Platform): AsyncGenerator<SweepEvent, void, void> {
  const { files } = host;
  const { options, kept } = await readOptions(host, wanted);
  const base = await openBase(files, options.base, host.timeLimit);
  const space = spaceOf(options, base);
  const isNew = !(await files.exists(options.output));
  await makeOutput(files, options);
  const held = await host.lock?.(options.output);
  const platform = { ...host, files: await outputFiles(files, options.output, held) };
  try {
    const elapsed = stopwatch();
    const before = kept.seconds;
    const limit = options.minutes === undefined ? null : 60 * options.minutes;
    const spent = () => before + elapsed();
    const save = async (): Promise<void> => {
      kept.seconds = spent();
      await writeSweep(platform.files, options.output, kept);
    };
    const state: State = { options, kept, host: platform, signal, limit, spent, save, end: null };
    const trialOptions = (settings: Settings, seed: number) => {
      const { steps, epochs, ...shared } = sharedOptions(options);
      return { ...shared, ...settingsOptions(settings, base.modules), seed };
    };
    await save();

    const seeds = options.seeds ?? [0];
    const phases = options.grid ? [gridPhase(gridOf(space))] : phasesOf(space);
    const [first] = phases[0]!.settings([]);
    if (!kept.measured) {
      yield { type: "measuring" };
      kept.measured = await measure(state, trialOptions(first!, seeds[0]!));
      if (kept.measured) await save();
    }
    if (kept.measured && !kept.plan) {
      kept.plan = planOf(options, kept.measured, phases, first!, limit === null ? null : limit - spent());
      await save();
    }
    const { measured, plan } = kept;
    if (measured && plan) {
      yield { type: "plan", phases: phases.map(({ name }) => name), plan, measured, limit, spent: spent() };
      const run = { ...state, seeds, measured, plan, trialOptions };
      for (const [i, phase] of phases.entries()) {
        if (run.end === null) yield* runPhase(run, phase, plan.counts[i] ?? 0);
      }
      state.end = run.end;
    }
    if (signal?.aborted) state.end ??= "stopped";
    const { end } = state;
    const isStopped = end === "stopped";
    kept.ended = end === "stopped" ? null : (end ?? "finished");
    await save();
    if (end !== null && ranked(kept).length === 0) {
      yield { type: "stopped", spent: spent() };
      return;
    }
    const outcome = outcomeOf(kept);
    const command = trainCommand({
      ...trialOptions(outcome.winner.settings, seeds[0]!),
      steps: outcome.steps,
      output: "my-adapter",
    });
    kept.command = command;
    await save();
    yield { type: "done", stopped: isStopped, ended: kept.ended, spent: spent(), command, ...outcome };
  } catch (error) {
    // A sweep that was refused leaves nothing behind.
    if (isNew && !kept.measured)
      for (const name of [SWEEP_NAME, MEASURING]) await platform.files.remove(`${options.output}/${name}`);
    throw error;
  } finally {
    await held?.release();
    if (isNew && (await files.list(options.output)).length === 0) await files.remove(options.output);
  }
}

interface State {
  options: SweepOptions;
  kept: SweepRecord;
  host: Platform;
  signal: AbortSignal | undefined;
  /** Seconds that the sweep has in all. */
  limit: number | null;
  spent(): number;
  save(): Promise<void>;
  /** Why no further trial is begun. */
  end: "stopped" | "budget" | null;
}

interface Running extends State {
  seeds: readonly number[];
  measured: Measured;
  plan: Plan;
  trialOptions(settings: Settings, seed: number): ReturnType<typeof sharedOptions> & Partial<FinetuneOptions>;
}

const gridPhase = (settings: Settings[]): Phase => ({ name: "grid", count: settings.length, settings: () => settings });

/** The options, complete, and the record that they are kept in: that of the folder for a sweep that is resumed. */
async function readOptions({ files }: Platform, given: Record<string, unknown>) {
  const output = String(given["output"]);
  const resume = given["resume"] === true;
  const refuse = (message: string, expected: string, next: string): LowrankError =>
    new LowrankError("sweep/output", message, { subject: output, expected, next });
  if (!(await isSweep(files, output))) {
    if (resume && (given["base"] === undefined || given["data"] === undefined))
      throw refuse(
        "there is no sweep to resume in the folder",
        SWEEP_NAME,
        "Give the folder of a sweep, or base and data to start one.",
      );
    if ((await files.exists(output)) && (await files.list(output)).some((name) => !name.startsWith(".")))
      throw refuse("the folder of a sweep holds other files", "a new or an empty folder", "Choose another folder.");
    const options = await withAbsolutePaths(files, completeSweep(given));
    const { output: _, resume: __, ...rest } = options;
    return { options, kept: newRecord(rest) };
  }
  if (!resume)
    throw refuse(
      "the folder holds a sweep",
      "a new or an empty folder",
      `Choose another folder, or resume that sweep: npx lowrank sweep --resume --output ${output}`,
    );
  const kept = await readSweep(files, output);
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options = await withAbsolutePaths(files, completeSweep({ ...kept.options, ...present }));
  const shown = (value: unknown) => (value === undefined ? "none" : JSON.stringify(value));
  const differing = Object.keys({ ...kept.options, ...options }).filter(
    (name) => !changeable.has(name) && shown(kept.options[name]) !== shown((options as Record<string, unknown>)[name]),
  );
  if (differing.length > 0) {
    const [name] = differing as [keyof SweepOptions];
    throw new LowrankError("sweep/output", "the folder holds a sweep with other options", {
      subject: output,
      expected: `${name} ${shown(kept.options[name])}`,
      got: `${name} ${shown(options[name])}`,
      next: "Leave out the options to resume it, or sweep into another folder.",
    });
  }
  return { options, kept };
}

/** Trains a few steps and evaluates once; null if the signal fires. */
async function measure({ options, host, signal }: State, trial: object): Promise<Measured | null> {
  const folder = `${options.output}/${MEASURING}`;
  await host.files.remove(folder);
  const { steps, epochs } = options;
  const stop = new AbortController();
  const run = { ...trial, ...(steps === undefined ? { epochs } : { steps }), evalEvery: MEASURED_STEPS, checkpointMinutes: 60 };
  const elapsed = stopwatch();
  let [length, open, evaluation] = [0, 0, 0];
  const times: number[] = [];
  let at = 0;
  try {
    const training = { ...run, output: folder, signal: eitherOf(signal, stop.signal) } as FinetuneOptions;
    for await (const event of finetune(training, host)) {
      if (event.type === "start") length = event.steps;
      if (event.type === "step") {
        if (times.length === 0) open = Math.max(0, elapsed() - event.seconds);
        times.push(event.seconds);
        at = elapsed();
      }
      if (event.type === "eval") {
        evaluation ||= elapsed() - at;
        stop.abort();
      }
    }
  } catch (error) {
    if (!wasStopped(error, signal)) throw error;
  }
  await host.files.remove(folder);
  return signal?.aborted ? null : { open, step: median(times), evaluation, steps: length };
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** Whether an error says that the signal ended the reading of data. */
const wasStopped = (error: unknown, signal: AbortSignal | undefined): boolean =>
  signal?.aborted === true && error instanceof LowrankError && error.code === "train/stopped";

/** Fires when one of the two does. */
function eitherOf(a: AbortSignal | undefined, b: AbortSignal): AbortSignal {
  return a ? AbortSignal.any([a, b]) : b;
}

function planOf(
  options: SweepOptions,
  measured: Measured,
  phases: readonly Phase[],
  first: Settings,
  seconds: number | null,
): Plan {
  const seeds = options.seeds?.length ?? 1;
  const counts = phases.map(({ count }) => count);
  if (options.grid) return planGrid(measured, counts[0]!, seeds);
  const cheap = { ...measured, step: measured.step / sweepMethod(first.method).cost };
  return planSweep(cheap, { counts, seeds, seconds: seconds!, isFixed: options.steps !== undefined });
}

/** Trains the new settings of a phase, `most` of them, with the best so far; after each rung but the last the better half goes on. */
async function* runPhase(run: Running, phase: Phase, most: number): AsyncGenerator<SweepEvent, void, void> {
  const { kept, plan } = run;
  const scored = ranked(kept).map(({ cell, loss }) => ({ settings: cell.settings, loss }));
  const known = new Set(scored.map(({ settings }) => settingsKey(settings)));
  const begun = kept.rungs.find((rung) => rung.phase === phase.name);
  const fresh = begun ? [] : phase.settings(scored).filter((one) => !known.has(settingsKey(one)));
  const best = begun ? [] : scored.slice(0, 1).map(({ settings }) => settings);
  let cells = fresh.length === 0 ? [] : [...best, ...fresh.slice(0, most)].map((settings) => cellFor(run, settings));
  let count = 0;
  for (const [i, step] of plan.rungs.entries()) {
    let rung = kept.rungs.find((one) => one.phase === phase.name && one.step === step);
    if (rung) cells = cellsOf(kept, rung.trials);
    else {
      if (i > 0) cells = better(kept, cells, plan.rungs[i - 1]!).slice(0, keptOf(count, i));
      cells = withinTime(run, cells, i);
      // The best so far alone is no comparison.
      if (i === 0 && cells.every((cell) => isAt(kept, cell, plan.steps))) cells = [];
      rung = { phase: phase.name, step, trials: trialsOf(cells) };
      kept.rungs.push(rung);
      await run.save();
    }
    if (cells.length === 0) return;
    if (i === 0) count = cells.length;
    yield* runRung(run, rung, i);
    if (run.end !== null) return;
    cells = cellsOf(kept, rung.trials);
  }
}

const trialsOf = (cells: readonly Cell[]): number[] => cells.flatMap(({ trials }) => trials);

/** The trials of these settings, one for each seed; new ones where there are none. */
function cellFor({ kept, seeds }: Running, settings: Settings): Cell {
  const trials = seeds.map((seed) => {
    const index = kept.trials.findIndex((one) => one.seed === seed && settingsKey(one.settings) === settingsKey(settings));
    if (index >= 0) return index;
    return kept.trials.push({ settings, seed, trainable: null, losses: [], stepSeconds: null, failure: null }) - 1;
  });
  return { settings, trials };
}

/** The cells that have a loss after `step` steps, the lowest first. */
const better = (kept: SweepRecord, cells: readonly Cell[], step: number): Cell[] =>
  cells
    .filter((cell) => !hasFailed(kept, cell) && meanAt(kept, cell, step) !== undefined)
    .sort((a, b) => meanAt(kept, a, step)! - meanAt(kept, b, step)!);

/** Whether all trials of the cell have come to `step`, or beyond it, or ended before. */
const isAt = ({ trials }: SweepRecord, cell: Cell, step: number): boolean =>
  cell.trials.every((index) => trials[index]!.failure !== null || trials[index]!.losses.some((one) => one.step >= step));

/**
 * The cells without the last ones that are not trained up to rung number `rung`, until there is time for the rest from here to the end of
 * the phase; one at least. Times are as measured, but for steps that took longer since.
 */
function withinTime({ kept, plan, limit, spent, measured, options }: Running, cells: readonly Cell[], rung: number): Cell[] {
  if (limit === null || options.grid) return [...cells];
  const usual = ({ settings }: Trial) => measured.step * sweepMethod(settings.method).cost;
  const ratios = kept.trials.flatMap((trial) => (trial.stepSeconds === null ? [] : trial.stepSeconds / usual(trial)));
  const slower = ratios.length === 0 ? 1 : median(ratios);
  const { open, evaluation } = measured;
  const secondsOf = (cell: Cell, at: number): number =>
    cell.trials.reduce((sum, index) => {
      const trial = kept.trials[index]!;
      const times = { open: slower * open, evaluation: slower * evaluation, step: trial.stepSeconds ?? slower * usual(trial) };
      return sum + rungSeconds(plan.rungs, at, times);
    }, 0);
  const needed = (some: readonly Cell[]): number =>
    plan.rungs.slice(rung).reduce((sum, step, i) => {
      const going = i === 0 ? some : some.slice(0, keptOf(some.length, i));
      return sum + going.reduce((all, cell) => all + (isAt(kept, cell, step) ? 0 : secondsOf(cell, rung + i)), 0);
    }, 0);
  const chosen = [...cells];
  while (chosen.length > 1 && !isAt(kept, chosen.at(-1)!, plan.rungs[rung]!) && needed(chosen) > limit - spent()) chosen.pop();
  return chosen;
}

/** Trains the trials of a rung; of those there is no time for, the last ones are left out of it. */
async function* runRung(run: Running, rung: Rung, number: number): AsyncGenerator<SweepEvent, void, void> {
  const { kept, plan, save } = run;
  const { phase, step } = rung;
  for (let i = 0; i < rung.trials.length; i++) {
    const trial = rung.trials[i]!;
    const { settings, seed, losses, failure } = kept.trials[trial]!;
    if (failure !== null || losses.some((one) => one.step >= step)) continue;
    const facts = { phase, trial, folder: trialName(trial), settings, seed };
    yield { type: "trial", ...facts, to: step, steps: plan.steps, number: i + 1, count: rung.trials.length };
    yield* runTrial(run, trial, step);
    if (run.end !== null) return;
    const going = trialsOf(withinTime(run, cellsOf(kept, rung.trials), number));
    if (going.length < rung.trials.length && going.length > i) {
      rung.trials = going;
      await save();
    }
  }
  const cells = cellsOf(kept, rung.trials);
  const failed = cells.filter((cell) => hasFailed(kept, cell)).map(({ settings }) => ({ settings, loss: null }));
  const compared = better(kept, cells, step).map((cell) => ({ settings: cell.settings, loss: meanAt(kept, cell, step)! }));
  yield { type: "rung", phase, step, cells: [...compared, ...failed] };
}

/** Trains a trial up to step `to` of its whole length, from where it stands. */
async function* runTrial(run: Running, index: number, to: number): AsyncGenerator<SweepEvent, void, void> {
  const { options, kept, host, plan, signal, limit, spent, measured } = run;
  const trial = kept.trials[index]!;
  const folder = `${options.output}/${trialName(index)}`;
  const isLast = to === plan.steps;
  if (!(await logged(host, folder, trial, to, isLast))) {
    const stop = new AbortController();
    const isOver = (more: number) => limit !== null && spent() + more > limit;
    if (isOver(measured.open)) {
      run.end = "budget";
      return;
    }
    const own = {
      ...{ steps: plan.steps, evalEvery: evalEvery(plan.steps), checkpointMinutes: CHECKPOINT_MINUTES, keepCheckpoints: 1 },
      ...{ output: folder, resume: true, signal: eitherOf(signal, stop.signal) },
    };
    try {
      for await (const event of finetune({ ...run.trialOptions(trial.settings, trial.seed), ...own } as FinetuneOptions, host)) {
        if (event.type === "prepared") trial.trainable = event.trainable;
        if (event.type === "step") {
          yield stepEvent(run, index, event);
          if (isOver(event.step % own.evalEvery === 0 || event.step === plan.steps ? measured.evaluation : 0)) {
            run.end = "budget";
            stop.abort();
          }
        }
        if (event.type === "eval" && event.step >= to && !isLast) stop.abort();
      }
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      if (RESULTS.has(error.code)) trial.failure = error.message;
      else if (!wasStopped(error, signal)) throw error;
    }
    if (signal?.aborted) run.end = "stopped";
    await logged(host, folder, trial, to, isLast);
    if (run.end === null && isLast && trial.failure === null) await removeCheckpoints(host, folder);
    await run.save();
  }
  if (trial.failure !== null) yield { type: "failure", trial: index, message: trial.failure };
  const loss = lossAt(trial, to);
  if (loss !== undefined) yield { type: "score", trial: index, step: to, loss };
}

function stepEvent({ plan, limit, spent }: Running, trial: number, event: Extract<FinetuneEvent, { type: "step" }>): SweepEvent {
  const { step, loss, memoryBytes } = event;
  const end = limit ?? plan.seconds.reduce((sum, seconds) => sum + seconds, 0);
  return { type: "step", trial, step, loss, secondsLeft: Math.max(0, end - spent()), memoryBytes };
}

/** Reads what the log of a trial says of it; whether it has come to step `to`, and has its result if that is its last. */
async function logged({ files }: Platform, folder: string, trial: Trial, to: number, isLast: boolean): Promise<boolean> {
  const metrics = await readMetrics(files, folder);
  if (!metrics) return false;
  const { steps, evals, end } = metrics;
  trial.losses = evals.map(({ step, loss }) => {
    return { step, loss, seconds: steps.reduce((sum, row) => sum + (row.step <= step ? row.seconds : 0), 0) };
  });
  if (steps.length > 0) trial.stepSeconds = median(steps.slice(-5).map(({ seconds }) => seconds));
  return lossAt(trial, to) !== undefined && (!isLast || (end?.type === "done" && end.result !== null));
}

/** What a trial that has its result went on from. */
async function removeCheckpoints({ files }: Platform, folder: string): Promise<void> {
  for (const name of await files.list(folder)) if (/^checkpoint-\d+$/.test(name)) await files.remove(`${folder}/${name}`);
}
