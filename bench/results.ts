// The file of results: a line of JSON for each measurement, appended when it is there, so that a run that is stopped resumes.
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import type { Failed, Measured } from "./measure.ts";
import { median } from "./median.ts";

export interface ModelFacts {
  model: string;
  parameters: number;
  layers: number;
  /** Of the weights, as they are stored. */
  bytes: number;
}

/** `screen`: the first round, which finds the peer's best mode. `round`: the sides alternate. */
export type Phase = "screen" | "round" | "decode";

export interface Key extends ModelFacts {
  machine: string;
  side: string;
  mode: string;
  phase: Phase;
  round: number;
  batch: number;
  tokens: number;
}

interface Origin {
  command: string;
  commit: string;
  date: string;
}

export type Outcome = Origin & (Measured | Failed);
export type Result = Key & Outcome;

/** What an installation takes on the disk, in megabytes. */
export interface Install {
  machine: string;
  side: string;
  phase: "install";
  megabytes: number;
  /** Of these, what only a GPU needs. */
  gpuMegabytes: number;
  packages: Record<string, string>;
}

export type Line = Result | Install;

export const isMeasured = (line: Line): line is Key & Origin & Measured => line.phase !== "install" && "seconds" in line;

const keyOf = ({ machine, model, side, mode, phase, round, batch, tokens }: Key): string =>
  JSON.stringify([machine, model, side, mode, phase, round, batch, tokens]);

/** Every line of the file; none if it is missing. */
export function readResults(file: string): Line[] {
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Line);
}

/** Removes a last line without an end: what a run that was killed has left. */
function mend(file: string): void {
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  if (!text.endsWith("\n")) writeFileSync(file, text.slice(0, text.lastIndexOf("\n") + 1));
}

/** The results of a file that is added to. */
export function openResults(file: string) {
  mend(file);
  const lines = readResults(file);
  const found = new Map(lines.flatMap((line) => (line.phase === "install" ? [] : [[keyOf(line), line] as const])));
  const add = (line: Line): void => {
    appendFileSync(file, `${JSON.stringify(line)}\n`);
    lines.push(line);
  };
  return {
    lines,
    add,
    /** The result under a key: the one in the file, or what `make` gives, which is added. */
    async once(key: Key, make: () => Promise<Outcome>): Promise<{ result: Result; isNew: boolean }> {
      const old = found.get(keyOf(key));
      if (old) return { result: old, isNew: false };
      const result = { ...key, ...(await make()) };
      add(result);
      return { result, isNew: true };
    },
  };
}

/** Medians over the rounds of one mode at one size. */
export interface Summary extends ModelFacts {
  machine: string;
  side: string;
  mode: string;
  batch: number;
  tokens: number;
  rounds: number;
  /** Only the short first round. */
  isScreen: boolean;
  seconds: number;
  tokensPerSecond: number;
  megabytes: number;
  coldStart: number | null;
  /** Cores at work, on average; fewer than the threads where other programs ran. */
  cores: number | null;
  /** Smallest and largest seconds. */
  spread: [number, number];
  command: string;
}

/** A summary for each mode, size, model and machine: of its rounds, or of the first round where it has no others. */
export function summaries(lines: readonly Line[], what: "step" | "decode"): Summary[] {
  const groups = new Map<string, (Key & Origin & Measured)[]>();
  for (const line of lines) {
    if (!isMeasured(line) || (line.phase === "decode") !== (what === "decode")) continue;
    const key = keyOf({ ...line, round: 0, phase: "round" });
    groups.set(key, [...(groups.get(key) ?? []), line]);
  }
  return [...groups.values()].map(summaryOf);
}

export function summaryOf(all: readonly (Key & Origin & Measured)[]): Summary {
  const rounds = all.filter(({ phase }) => phase !== "screen");
  const used = rounds.length > 0 ? rounds : all;
  const { machine, side, mode, batch, tokens, model, parameters, layers, bytes, command } = used[0]!;
  const of = (pick: (line: Measured) => number) => median(used.map(pick));
  const seconds = used.map((line) => line.seconds);
  const cold = used.flatMap(({ cold_start_seconds }) => cold_start_seconds ?? []);
  const cores = used.flatMap((line) => (line.cpu_seconds ? line.cpu_seconds / line.seconds : []));
  return {
    ...{ machine, side, mode, batch, tokens, model, parameters, layers, bytes, command },
    rounds: used.length,
    isScreen: rounds.length === 0,
    seconds: median(seconds),
    tokensPerSecond: of((line) => line.tokens_per_second),
    megabytes: of((line) => line.peak_mb),
    coldStart: cold.length > 0 ? median(cold) : null,
    cores: cores.length > 0 ? median(cores) : null,
    spread: [Math.min(...seconds), Math.max(...seconds)],
  };
}

/** The fastest. */
export const fastest = (rows: readonly Summary[]): Summary | undefined =>
  rows.reduce<Summary | undefined>((best, row) => (best && best.seconds <= row.seconds ? best : row), undefined);
