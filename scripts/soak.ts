// npm run soak -- [--steps N] [--log-steps N] [--base FOLDER] [--data FILE]: does a long run grow? Trains in a process of its own and follows its resident memory, as each step reports it.
// Passes when the median of the last tenth of the steps is within 2 % of that of the second tenth (the first is warming up), and
// when its log, continued to a million steps and a thousand starts, is read to its end in little time and memory.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { median } from "../bench/median.ts";

const TOLERANCE = 0.02;
/** JavaScript memory of a command that reads the long log, and seconds that it may take. */
const HEAP_MB = 192;
const MOST_SECONDS = { runs: 10, report: 20 };
/** Steps between two starts in the long log. */
const STEPS_OF_A_START = 1000;

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "5000" },
    "log-steps": { type: "string", default: "1000000" },
    base: { type: "string", default: "models/embedded" },
    data: { type: "string", default: "models/demo/train.jsonl" },
    "eval-data": { type: "string", default: "models/demo/test.jsonl" },
    threads: { type: "string", default: "1" },
  },
});
const steps = Number(values.steps);
const output = mkdtempSync(path.join(tmpdir(), "lowrank-soak-"));
// Evaluations and checkpoints belong to a long run, and so to what is measured.
const training = ["--batch-size", "4", "--eval-every", "500", "--checkpoint-every", "250", "--threads", values.threads];
const args = ["--base", values.base, "--data", values.data, "--eval-data", values["eval-data"], ...training];
const command = ["dist/cli/main.js", "train", ...args, "--steps", values.steps, "--output", output, "--json"];
const child = spawn(process.execPath, command, { stdio: ["ignore", "pipe", "inherit"] });
const ended = once(child, "exit");

/** Resident memory of the process after each step, in MB. */
const resident: number[] = [];
const began = performance.now();
for await (const line of createInterface({ input: child.stdout })) {
  const event = JSON.parse(line) as { type: string; step: number; memoryBytes: number };
  if (event.type !== "step") continue;
  resident.push(event.memoryBytes / 2 ** 20);
  if (event.step % Math.ceil(steps / 20) === 0) {
    const seconds = ((performance.now() - began) / 1000).toFixed(0);
    console.log(`step ${event.step}: ${resident.at(-1)!.toFixed(1)} MB, ${seconds} s`);
  }
}
const [status] = await ended;
const isLogRead = status === 0 && readLongLog(`${output}/metrics.jsonl`, Number(values["log-steps"]));
rmSync(output, { recursive: true, force: true });
const tenth = (n: number) => median(resident.slice(Math.floor(((n - 1) * steps) / 10), Math.floor((n * steps) / 10)));
const [second, last] = [tenth(2), tenth(10)];
const change = last / second - 1;
console.log(
  `${resident.length} steps: median of the second tenth ${second.toFixed(1)} MB, of the last ${last.toFixed(1)} MB (${(100 * change).toFixed(2)} %)`,
);
process.exitCode = isLogRead && resident.length === steps && Math.abs(change) <= TOLERANCE ? 0 : 1;

/** Continues the log up to step `last`, with a start now and then, and reads it as `runs` and `report` do. */
function readLongLog(file: string, last: number): boolean {
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  const row = (type: string) => JSON.parse(lines.findLast((line) => line.startsWith(`{"type":"${type}"`))!);
  const [run, start, step, done] = ["run", "start", "step", "done"].map(row);
  const log = openSync(file, "a");
  for (let from = steps; from < last; from += STEPS_OF_A_START) {
    const rows = [run, { ...start, step: from, steps: last }];
    for (let at = from + 1; at <= Math.min(from + STEPS_OF_A_START, last); at++)
      rows.push({ ...step, step: at, loss: 1 + 1 / at });
    if (from + STEPS_OF_A_START >= last) rows.push({ ...done, step: last, result: last });
    writeSync(log, rows.map((each) => `${JSON.stringify(each)}\n`).join(""));
  }
  closeSync(log);
  const read = (command: keyof typeof MOST_SECONDS): { state?: string; step?: number } => {
    const before = performance.now();
    const args = [`--max-old-space-size=${HEAP_MB}`, "dist/cli/main.js", command, output, "--json"];
    const found = JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
    const seconds = (performance.now() - before) / 1000;
    console.log(
      `a log of ${last} steps, ${(statSync(file).size / 1e6).toFixed(0)} MB: lowrank ${command} takes ${seconds.toFixed(1)} s`,
    );
    if (seconds > MOST_SECONDS[command]) throw new Error(`lowrank ${command} takes more than ${MOST_SECONDS[command]} s`);
    return found;
  };
  const { state, step: shown } = read("runs");
  read("report");
  console.log(`lowrank runs shows: ${state}, step ${shown}`);
  return state === "finished" && shown === last;
}
