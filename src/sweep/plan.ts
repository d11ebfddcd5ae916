// How long trials are, when they are compared, and how many go on: synchronous successive halving (Jamieson and Talwalkar 2016), planned
// from the time of a step.
import { LowrankError } from "../errors.ts";

/** Times in seconds, of settings in the middle of the space. */
export interface Measured {
  /** From the start of a trial to its first step, that left out. */
  open: number;
  step: number;
  evaluation: number;
  /** Steps of a run as long as was asked for. */
  steps: number;
}

export interface Plan {
  /** Length of a trial that is trained to its end: the learning rate's schedule ends there. */
  steps: number;
  /** The steps at which trials are evaluated and compared, the last one that end. */
  rungs: number[];
  /** The most settings of each phase that are new in it. */
  counts: number[];
  /** Estimated seconds of each phase. */
  seconds: number[];
}

/** Comparisons of a trial: at a quarter, a half and the end of it. Half of the trials go on from one to the next, two at least. */
const QUARTERS = [1, 2, 4];
const FEWEST = 2;
/** A trial that is shortened to fit into the budget has this many steps at least. */
const SHORTEST = 32;
/** Share of the budget that is planned; the rest is for what takes longer than measured. */
const PLANNED = 0.85;

/** The steps between two evaluations, of which each rung but the last is a multiple. */
export const evalEvery = (steps: number): number => Math.ceil(steps / QUARTERS.at(-1)!);

export const rungsOf = (steps: number): number[] => [
  ...new Set(QUARTERS.map((quarter) => Math.min(steps, quarter * evalEvery(steps)))),
];

/** How many of `count` settings are trained up to rung number `rung`. */
export const keptOf = (count: number, rung: number): number => Math.min(count, Math.max(FEWEST, Math.ceil(count / 2 ** rung)));

/** Seconds of one trial from the rung before `rung` to it. */
export function rungSeconds(rungs: readonly number[], rung: number, { open, step, evaluation }: Omit<Measured, "steps">): number {
  const steps = rungs[rung]! - (rungs[rung - 1] ?? 0);
  return open + steps * step + Math.ceil(steps / evalEvery(rungs.at(-1)!)) * evaluation;
}

/** Trials of each setting, and how many are trained at a time: they begin together, and the next ones when all are at the rung. */
interface Together {
  seeds?: number;
  groups?: number;
}

/** Seconds of a phase with `fresh` new settings; beside the best of those before it if `hasBest`, which is trained already. */
export function phaseSeconds(
  rungs: readonly number[],
  fresh: number,
  hasBest: boolean,
  measured: Measured,
  { seeds = 1, groups = 1 }: Together = {},
): number {
  if (fresh === 0) return 0;
  const known = hasBest ? 1 : 0;
  const roundsOf = (settings: number) => Math.ceil((seeds * settings) / groups);
  return rungs.reduce((sum, _, i) => sum + roundsOf(keptOf(fresh + known, i) - known) * rungSeconds(rungs, i, measured), 0);
}

/** Seconds of trials that take so long each, as many at a time as there are groups. */
export function roundSeconds(trials: readonly number[], groups: number): number {
  let sum = 0;
  for (let at = 0; at < trials.length; at += groups) sum += Math.max(...trials.slice(at, at + groups));
  return sum;
}

export interface WantedTrials extends Together {
  /** The most new settings of each phase, if there is time. */
  counts: readonly number[];
  /** What there is left, in seconds. */
  seconds: number;
  /** Whether the length of trials was asked for: then settings are left out rather than steps. */
  isFixed: boolean;
}

/**
 * The longest trials, of up to `measured.steps` steps, with which all settings fit into the time; where none do, fewer settings: of the
 * last phase first. Throws `sweep/budget` if two learning rates do not fit.
 */
export function planSweep(measured: Measured, { counts, seconds, isFixed, ...together }: WantedTrials): Plan {
  const planOf = (steps: number, limits: readonly number[]): Plan => {
    const rungs = rungsOf(steps);
    return {
      steps,
      rungs,
      counts: [...limits],
      seconds: limits.map((n, i) => phaseSeconds(rungs, n, i > 0, measured, together)),
    };
  };
  const fits = (plan: Plan) => sumOf(plan.seconds) <= PLANNED * seconds;
  const shortest = isFixed ? measured.steps : Math.min(SHORTEST, measured.steps);
  for (let steps = measured.steps; steps >= shortest; steps--) {
    const plan = planOf(steps, counts);
    if (fits(plan)) return plan;
  }
  const fewer = [...counts];
  const least = fewer.map((count, i) => (i === 0 ? Math.min(FEWEST, count) : 0));
  for (let phase = fewer.length - 1; phase >= 0; phase--) {
    while (fewer[phase]! > least[phase]!) {
      fewer[phase]!--;
      const plan = planOf(shortest, fewer);
      if (fits(plan)) return plan;
    }
  }
  const needed = Math.ceil(sumOf(planOf(shortest, fewer).seconds) / PLANNED / 6) / 10;
  throw new LowrankError("sweep/budget", "two learning rates can't be compared in the time that there is", {
    subject: "minutes",
    expected: `${needed} minutes, at ${measured.step.toPrecision(2)} s a step and ${shortest} steps a trial`,
    got: `${(seconds / 60).toPrecision(2)} minutes`,
    next: "Resume it with more minutes (--resume --minutes), or sweep into another folder with fewer steps or less evaluation data.",
  });
}

/** The plan of a grid: all settings, to the end. */
export function planGrid(measured: Measured, settings: number, seeds: number, groups = 1): Plan {
  const { steps, open, step, evaluation } = measured;
  const each = open + steps * step + Math.ceil(steps / evalEvery(steps)) * evaluation;
  return { steps, rungs: [steps], counts: [settings], seconds: [Math.ceil((settings * seeds) / groups) * each] };
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
