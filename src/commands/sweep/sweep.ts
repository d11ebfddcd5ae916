// A sweep: measures a step, plans trials that fit into the time, trains them rung by rung, and keeps all of it in its folder. What is done
// next follows from sweep.json and the logs of the trials alone, so that a sweep which was stopped or killed goes on as if it had not been.

import { stopwatch } from "../../clock.ts";
import { alone } from "../../distributed/communicator.ts";
import { LowrankError } from "../../errors.ts";
import { openBase } from "../../models/base.ts";
import type { Platform } from "../../platform/platform.ts";
import { changeable, completeSweep, type SweepGiven, type SweepOptions, sharedOptions } from "../../sweep/options.ts";
import { type Outcome, outcomeOf } from "../../sweep/outcome.ts";
import { evalEvery, keptOf, type Measured, type Plan, planGrid, planSweep, roundSeconds, rungSeconds } from "../../sweep/plan.ts";
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
import { outputFiles } from "../../train/output-files.ts";
import { makeOutput } from "../../train/preflight.ts";
import { trainCommand, withAbsolutePaths } from "../../train/run-file.ts";
import { finetune } from "../train/finetune.ts";
import { follow, type Groups, groupsOf, measureTogether, runRound, sharedFolder } from "./groups.ts";
import { type Leg, type LegResult, type LegStep, MEASURING, median, type Train, type TrialOptions } from "./trial.ts";

/** What `sweep` reports. `trial` is its place among the trials, from 0; times are in seconds. */
export type SweepEvent =
  | { type: "measuring" }
  /** With how many trials are trained at a time, each by `processes` processes. */
  | ({ type: "plan"; phases: string[]; plan: Plan; measured: Measured; limit: number | null; spent: number } & Spread)
  /** A trial goes on, up to step `to` of `steps`; it is number `number` of `count` trials of the rung, and one of `together` at a time. */
  | ({ type: "trial"; to: number; steps: number; number: number; count: number; together: number } & TrialFacts)
  /** Of trials that are trained at the same time: of the first. */
  | { type: "step"; trial: number; step: number; loss: number; secondsLeft: number; memoryBytes: number | null }
  | { type: "score"; trial: number; step: number; loss: number }
  | { type: "failure"; trial: number; message: string }
  /** What was compared at a rung, the best first. */
  | { type: "rung"; phase: string; step: number; cells: { settings: Settings; loss: number | null }[] }
  /** With the command that trains the winner. `stopped`: by the signal; `ended`: by the plan, or by the time. */
  | ({ type: "done"; stopped: boolean; ended: SweepRecord["ended"]; spent: number; command: string } & Outcome)
  /** It was stopped, or its time was over, before anything could be compared. */
  | { type: "stopped"; spent: number };

interface Spread {
  groups: number;
  processes: number;
}

interface TrialFacts {
  phase: string;
  trial: number;
  folder: string;
  settings: Settings;
  seed: number;
}

/** The API's `sweep` (core.ts), whose trials are trained by `train`. Of several processes the first reports. */
export async function* sweep(
  { signal, ...wanted }: SweepGiven,
  host: Platform,
  train: Train = finetune,
): AsyncGenerator<SweepEvent, void, void> {
  const { files, team = alone } = host;
  if (team.rank > 0) return follow(team, host, train, signal);
  const { options, kept } = await readOptions(host, wanted);
  const base = await openBase(files, options.base, host.timeLimit);
  const space = spaceOf(options, base);
  const groups = await groupsOf(team, options.groupSize, train);
  const isNew = !(await files.exists(options.output));
  await makeOutput(files, options);
  const held = await host.lock?.(options.output);
  const platform = { ...host, files: await outputFiles(files, options.output, held) };
  const removeMeasuring = async (): Promise<void> => {
    for (const name of await files.list(options.output))
      if (name.startsWith(MEASURING)) await platform.files.remove(`${options.output}/${name}`);
  };
  try {
    await removeMeasuring();
    await sharedFolder(groups, platform.files, options.output);
    const elapsed = stopwatch();
    const before = kept.seconds;
    const limit = options.minutes === undefined ? null : 60 * options.minutes;
    const spent = () => before + elapsed();
    const save = async (): Promise<void> => {
      kept.seconds = spent();
      await writeSweep(platform.files, options.output, kept);
    };
    const state: State = { options, kept, groups, host: platform, signal, limit, spent, save, end: null };
    const trialOptions = (settings: Settings, seed: number) => {
      const { steps, epochs, ...shared } = sharedOptions(options);
      return { ...shared, ...settingsOptions(settings, base.modules), seed };
    };
    await save();

    const seeds = options.seeds ?? [0];
    const phases = options.grid ? [gridPhase(gridOf(space))] : phasesOf(space);
    const [first] = phases[0]!.settings([]);
    if (!kept.measured) yield { type: "measuring" };
    const length = options.steps === undefined ? { epochs: options.epochs } : { steps: options.steps };
    const wanted = kept.measured ? null : { ...trialOptions(first!, seeds[0]!), ...length };
    const found = await measureTogether(groups, platform, options.output, wanted, signal);
    if (found) {
      kept.measured = found;
      await save();
    }
    if (!kept.measured) state.end = "stopped"; // some process was
    if (kept.measured && !kept.plan) {
      kept.plan = planOf(state, kept.measured, phases, first!, limit === null ? null : limit - spent());
      await save();
    }
    const { measured, plan } = kept;
    if (measured && plan) {
      const spread = { groups: groups.count, processes: groups.own.size };
      yield { type: "plan", phases: phases.map(({ name }) => name), plan, measured, limit, spent: spent(), ...spread };
      const run = { ...state, seeds, measured, plan, trialOptions };
      for (const [i, phase] of phases.entries()) {
        if (run.end === null) yield* runPhase(run, phase, plan.counts[i] ?? 0);
      }
      state.end = run.end;
    }
    if (signal?.aborted) state.end ??= "stopped";
    await runRound(groups, platform, null, signal).next();
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
    if (isNew && !kept.measured) {
      await removeMeasuring();
      await platform.files.remove(`${options.output}/${SWEEP_NAME}`);
    }
    throw error;
  } finally {
    await held?.release();
    if (isNew && (await files.list(options.output)).length === 0) await files.remove(options.output);
  }
}

interface State {
  options: SweepOptions;
  kept: SweepRecord;
  groups: Groups;
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
  trialOptions(settings: Settings, seed: number): TrialOptions;
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
    const { output: _, resume: __, groupSize: ___, ...rest } = options;
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

function planOf(
  { options, groups }: State,
  measured: Measured,
  phases: readonly Phase[],
  first: Settings,
  seconds: number | null,
): Plan {
  const seeds = options.seeds?.length ?? 1;
  const counts = phases.map(({ count }) => count);
  if (options.grid) return planGrid(measured, counts[0]!, seeds, groups.count);
  const cheap = { ...measured, step: measured.step / sweepMethod(first.method).cost };
  return planSweep(cheap, { counts, seeds, groups: groups.count, seconds: seconds!, isFixed: options.steps !== undefined });
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
function withinTime(
  { kept, plan, limit, spent, measured, options, groups }: Running,
  cells: readonly Cell[],
  rung: number,
): Cell[] {
  if (limit === null || options.grid) return [...cells];
  const usual = ({ settings }: Trial) => measured.step * sweepMethod(settings.method).cost;
  const ratios = kept.trials.flatMap((trial) => (trial.stepSeconds === null ? [] : trial.stepSeconds / usual(trial)));
  const slower = ratios.length === 0 ? 1 : median(ratios);
  const { open, evaluation } = measured;
  const secondsOf = (index: number, at: number): number => {
    const trial = kept.trials[index]!;
    const times = { open: slower * open, evaluation: slower * evaluation, step: trial.stepSeconds ?? slower * usual(trial) };
    return rungSeconds(plan.rungs, at, times);
  };
  const needed = (some: readonly Cell[]): number =>
    plan.rungs.slice(rung).reduce((sum, step, i) => {
      const going = (i === 0 ? some : some.slice(0, keptOf(some.length, i))).filter((cell) => !isAt(kept, cell, step));
      const seconds = trialsOf(going).map((index) => secondsOf(index, rung + i));
      return sum + roundSeconds(seconds, groups.count);
    }, 0);
  const chosen = [...cells];
  while (chosen.length > 1 && !isAt(kept, chosen.at(-1)!, plan.rungs[rung]!) && needed(chosen) > limit - spent()) chosen.pop();
  return chosen;
}

/** Trains the trials of a rung, as many at a time as there are groups; of those there is no time for, the last ones are left out of it. */
async function* runRung(run: Running, rung: Rung, number: number): AsyncGenerator<SweepEvent, void, void> {
  const { kept, plan, groups, save } = run;
  const { phase, step } = rung;
  const isDone = ({ failure, losses }: Trial) => failure !== null || losses.some((one) => one.step >= step);
  for (let next = 0; next < rung.trials.length; ) {
    const some: { trial: number; number: number }[] = [];
    for (; next < rung.trials.length && some.length < groups.count; next++)
      if (!isDone(kept.trials[rung.trials[next]!]!)) some.push({ trial: rung.trials[next]!, number: next + 1 });
    if (some.length === 0) break;
    for (const { trial, number } of some) {
      const { settings, seed } = kept.trials[trial]!;
      const facts = { phase, trial, folder: trialName(trial), settings, seed };
      const place = { number, count: rung.trials.length, together: some.length };
      yield { type: "trial", ...facts, to: step, steps: plan.steps, ...place };
    }
    yield* runTrials(
      run,
      some.map(({ trial }) => trial),
      step,
    );
    if (run.end !== null) return;
    const going = trialsOf(withinTime(run, cellsOf(kept, rung.trials), number));
    if (going.length < rung.trials.length && going.length >= next) {
      rung.trials = going;
      await save();
    }
  }
  const cells = cellsOf(kept, rung.trials);
  const failed = cells.filter((cell) => hasFailed(kept, cell)).map(({ settings }) => ({ settings, loss: null }));
  const compared = better(kept, cells, step).map((cell) => ({ settings: cell.settings, loss: meanAt(kept, cell, step)! }));
  yield { type: "rung", phase, step, cells: [...compared, ...failed] };
}

/** Trains trials up to step `to` of their whole length, from where they stand: a group of processes each. */
async function* runTrials(run: Running, trials: readonly number[], to: number): AsyncGenerator<SweepEvent, void, void> {
  const { options, kept, groups, host, plan, signal, limit, spent, measured } = run;
  const legs = trials.map((index): Leg => {
    const { settings, seed } = kept.trials[index]!;
    const length = { to, steps: plan.steps, evalEvery: evalEvery(plan.steps) };
    const folder = `${options.output}/${trialName(index)}`;
    return { folder, options: run.trialOptions(settings, seed), ...length, measured };
  });
  const results: LegResult[] = [];
  const left = limit === null ? null : limit - spent();
  for await (const event of runRound(groups, host, { output: options.output, legs, left }, signal)) {
    if (event.type === "step") yield stepEvent(run, trials[0]!, event);
    else results.push(...event.results);
  }
  for (const [i, { logged, trainable, failure, end }] of results.entries()) {
    const trial = kept.trials[trials[i]!]!;
    if (logged) Object.assign(trial, { ...logged, stepSeconds: logged.stepSeconds ?? trial.stepSeconds });
    trial.trainable = trainable ?? trial.trainable;
    trial.failure = failure;
    if (end !== null && run.end !== "stopped") run.end = end;
  }
  await run.save();
  for (const index of trials) {
    const trial = kept.trials[index]!;
    if (trial.failure !== null) yield { type: "failure", trial: index, message: trial.failure };
    const loss = lossAt(trial, to);
    if (loss !== undefined) yield { type: "score", trial: index, step: to, loss };
  }
}

function stepEvent({ plan, limit, spent }: Running, trial: number, event: LegStep): SweepEvent {
  const { step, loss, memoryBytes } = event;
  const end = limit ?? plan.seconds.reduce((sum, seconds) => sum + seconds, 0);
  return { type: "step", trial, step, loss, secondsLeft: Math.max(0, end - spent()), memoryBytes };
}
