// lowrank runs: the runs below some folders as a table, or some of them side by side.

import { z } from "zod";
import { option } from "../../options.ts";
import { isLocked } from "../../platform/node/lock.ts";
import { table } from "../../terminal/columns.ts";
import { note, print, printJson } from "../../terminal/terminal.ts";
import { duration, grouped, oneLine, percent } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { differences, findRuns, type Run } from "./runs.ts";

/** Longer values are cut in tables. */
const MAX_CELL_CHARS = 40;

export const command = defineCommand({
  summary: "list runs: what they train, how far they are, how they ended",
  options: {
    folder: option(z.array(z.string()).optional(), {
      help: "folders of runs, or above them (the current folder); two or more runs are compared",
    }),
    compare: option(z.boolean().optional(), { help: "the runs side by side: results, and the options in which they differ" }),
  },
  argument: "folder",
  examples: ["", "first-adapter second-adapter --compare"],
  async run({ folder = [], compare }, { platform, json }) {
    const { runs, complete } = await findRuns(platform.files, folder.length > 0 ? folder : ["."], isLocked);
    if (!complete) note("There is too much below these folders to look through it all; name the folders of the runs.");
    const named = folder.length > 1 && runs.length === folder.length;
    if (json) for (const each of runs) printJson(each);
    else if (runs.length === 0) note("There are no runs here. lowrank train --output FOLDER makes one.");
    else print(...(compare || (named && compare !== false) ? comparison(runs) : list(runs)));
    return 0;
  },
});

function list(runs: readonly Run[]): string[] {
  const heading = ["run", "state", "steps", "loss", "best evaluation", "method", "base", "data", "time", "speed", "started"];
  const rows = runs.map((run) => [
    cell(run.folder, 60),
    stateOf(run),
    ...[stepsOf(run), lossOf(run), bestOf(run), methodOf(run), cell(baseOf(run)), cell(lastName(run.options["data"]))],
    ...[duration(run.seconds), speedOf(run), startOf(run)],
  ]);
  const failed = runs.flatMap(({ folder, error }) => (error === null ? [] : [`${cell(folder, 60)}: ${cell(error, 300)}`]));
  return [...table([heading, ...rows]), ...failed];
}

function comparison(runs: readonly Run[]): string[] {
  const results: [string, (run: Run) => string][] = [
    ["state", stateOf],
    ["steps", stepsOf],
    ["loss", lossOf],
    ["best evaluation", bestOf],
    ["trained parameters", ({ trainable }) => (trainable === null ? "-" : grouped(trainable))],
    ["time", ({ seconds }) => duration(seconds)],
    ["speed", speedOf],
  ];
  const differing = differences(runs).map(({ name, values }) => [name, ...values.map((value = "-") => cell(value))]);
  const none = runs.map(() => "");
  return table([
    ["", ...runs.map(({ folder }) => cell(folder))],
    ...results.map(([name, of]) => [name, ...runs.map(of)]),
    ["", ...none],
    ...(differing.length > 0 ? differing : [["no option differs", ...none]]),
  ]);
}

const stateOf = ({ early, state }: Run): string => (early ? "finished early" : state);
const stepsOf = ({ step, steps }: Run): string => `${step ?? "-"}/${steps ?? "-"}`;
const lossOf = ({ loss }: Run): string => loss?.toFixed(4) ?? "-";
const bestOf = ({ bestEval, accuracy }: Run): string => {
  const right = accuracy === null ? "" : ` (${percent(accuracy)})`;
  return bestEval ? `${bestEval.loss.toFixed(4)}${right} @ ${bestEval.step}` : "-";
};
const speedOf = ({ tokensPerSecond, examplesPerSecond }: Run): string => {
  if (examplesPerSecond !== null) return `${Number(examplesPerSecond.toPrecision(3))} examples/s`;
  return tokensPerSecond === null ? "-" : `${Math.round(tokensPerSecond)} tokens/s`;
};
const startOf = ({ started }: Run): string => (started === null ? "-" : cell(started.slice(0, 16).replace("T", " ")));

function methodOf({ options }: Run): string {
  const { method, rank, learningRate } = options;
  const what = method === "full" ? "full" : typeof rank === "number" ? `lora r${rank}` : "lora";
  return `${what}, lr ${typeof learningRate === "number" ? learningRate : "-"}`;
}

const baseOf = ({ options: { base, baseName } }: Run): string => lastName(typeof baseName === "string" ? baseName : base);

/** The last part of a path, which is what distinguishes models and data files. */
const lastName = (path: unknown): string => (typeof path === "string" ? (path.match(/[^/\\]+(?=[/\\]*$)/)?.[0] ?? path) : "-");

/** What a file holds, for a cell: one line, not too long; of a longer one the end. */
function cell(text: string, most = MAX_CELL_CHARS): string {
  const line = oneLine(text);
  return line.length > most ? `…${line.slice(1 - most)}` : line;
}
