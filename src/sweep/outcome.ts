// What a sweep came to: which settings won and by how much, and whether a range should be wider.
import { LowrankError } from "../errors.ts";
import { duration } from "../units.ts";
import { type Cell, cellsOf, hasFailed, lossAt, meanAt, ranked, type SweepRecord, trialName } from "./record.ts";
import { placeText, type Settings, settingsText } from "./space.ts";

export interface Placed {
  settings: Settings;
  /** Its folder within that of the sweep: of several seeds the first one's. */
  folder: string;
  /** The mean over the seeds after `step` steps. */
  loss: number;
  /** Of each seed. */
  losses: number[];
  step: number;
}

export interface Outcome {
  winner: Placed;
  /** null where only one setting was trained as far. */
  runnerUp: Placed | null;
  /** Length of a whole trial. */
  steps: number;
  /** Why it won and what could be tried, in sentences. */
  why: string[];
}

/** A difference below this share of the loss may come from the seed alone. */
const CLOSE = 0.005;

/** Throws `sweep/diverged` if no trial has a loss. */
export function outcomeOf(kept: SweepRecord): Outcome {
  const [first, second] = ranked(kept);
  if (!first || !kept.plan) {
    throw new LowrankError("sweep/diverged", "no trial of the sweep has a finite loss", {
      expected: "one that was evaluated",
      got: kept.trials.find(({ failure }) => failure !== null)?.failure ?? "none",
      next: "Give lower learning rates (--learning-rates), more warm-up, or more minutes.",
      exitCode: 1,
    });
  }
  const placed = ({ cell, step, loss }: typeof first): Placed => ({
    settings: cell.settings,
    folder: trialName(cell.trials[0]!),
    loss,
    losses: cell.trials.map((index) => lossAt(kept.trials[index]!, step)!),
    step,
  });
  const winner = placed(first);
  const runnerUp = second?.step === first.step ? placed(second) : null;
  const { steps } = kept.plan;
  return { winner, runnerUp, steps, why: [...comparison(winner, runnerUp, steps), ...failures(kept), ...borders(kept, winner)] };
}

function comparison(winner: Placed, runnerUp: Placed | null, steps: number): string[] {
  const loss = `${winner.loss.toFixed(4)} after ${winner.step} steps`;
  const sentences = [`The lowest evaluation loss is ${loss}: ${settingsText(winner.settings)} (${winner.folder}).`];
  if (winner.step < steps) sentences.push(`No trial was trained to its end, step ${steps}: this is the best so far.`);
  if (!runnerUp) return sentences;
  const gap = runnerUp.loss - winner.loss;
  const share = ((100 * gap) / winner.loss).toPrecision(2);
  sentences.push(
    `The runner-up is ${gap.toFixed(4)} (${share} %) above it: ${settingsText(runnerUp.settings)} (${runnerUp.folder}).`,
  );
  const spread = (placed: Placed) => Math.max(...placed.losses) - Math.min(...placed.losses);
  if (winner.losses.length > 1) {
    const both = `${spread(winner).toFixed(4)} and ${spread(runnerUp).toFixed(4)}`;
    sentences.push(`Their seeds are up to ${both} apart${gap < spread(winner) ? ": either can be used" : ""}.`);
  } else if (gap < CLOSE * winner.loss) {
    sentences.push("So small a difference may come from the seed: several (--seeds 0,1,2) would tell.");
  }
  return sentences;
}

function failures(kept: SweepRecord): string[] {
  const failed = cellsOf(kept).filter((cell) => hasFailed(kept, cell));
  if (failed.length === 0) return [];
  const rates = failed.map(({ settings }) => settings.learningRate);
  return [
    `Training diverged ${failed.length === 1 ? "once" : `${failed.length} times`}, at learning rates from ${Math.min(...rates)}.`,
  ];
}

/** Where the winner has the least or the most that was tried of a setting. */
function borders(kept: SweepRecord, { settings }: Placed): string[] {
  const all = cellsOf(kept).filter((cell: Cell) => cell.settings.method === settings.method);
  const advice = (name: "learningRate" | "rank", what: string, flag: string): string[] => {
    const own = settings[name];
    const values = all.flatMap((cell) => cell.settings[name] ?? []);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    if (own === null || least === most || (own !== least && own !== most)) return [];
    const side = own === most ? "highest" : "lowest";
    return [
      `Its ${what} is the ${side} that was tried: a sweep with ${own === most ? "higher" : "lower"} ones (${flag}) may find better.`,
    ];
  };
  return [...advice("learningRate", "learning rate", "--learning-rates"), ...advice("rank", "rank", "--ranks")];
}

/** How the time was spent, in a line. */
export function spentText(kept: SweepRecord): string {
  const trials = kept.trials.filter(({ losses }) => losses.length > 0).length;
  return `${trials} trials, ${duration(kept.seconds)}${kept.ended === "budget" ? ": the time was over" : ""}`;
}

/** The losses at the end of the trials: a row for each of the other settings, a column for each learning rate; null where there is none. */
export function lossTable(kept: SweepRecord): { rates: number[]; rows: { place: string; losses: (number | null)[] }[] } {
  const cells = cellsOf(kept);
  const end = kept.plan?.steps ?? 0;
  const rates = [...new Set(cells.map(({ settings }) => settings.learningRate))].sort((a, b) => a - b);
  const rows = [...new Set(cells.map(({ settings }) => placeText(settings)))].map((place) => {
    const own = cells.filter(({ settings }) => placeText(settings) === place);
    const losses = rates.map((rate) => {
      const cell = own.find(({ settings }) => settings.learningRate === rate);
      return (cell && meanAt(kept, cell, end)) ?? null;
    });
    return { place, losses };
  });
  return { rates, rows };
}
