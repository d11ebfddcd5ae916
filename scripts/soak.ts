// npm run soak -- [--steps N] [--base FOLDER] [--data FILE]: does a long run grow? Trains in a process of its own and follows its resident memory, as each step reports it.
// Passes when the median of the last tenth of the steps is within 2 % of that of the second tenth (the first is warming up).
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { median } from "../bench/median.ts";

const TOLERANCE = 0.02;

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "5000" },
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
rmSync(output, { recursive: true, force: true });
const tenth = (n: number) => median(resident.slice(Math.floor(((n - 1) * steps) / 10), Math.floor((n * steps) / 10)));
const [second, last] = [tenth(2), tenth(10)];
const change = last / second - 1;
console.log(
  `${resident.length} steps: median of the second tenth ${second.toFixed(1)} MB, of the last ${last.toFixed(1)} MB (${(100 * change).toFixed(2)} %)`,
);
process.exitCode = status === 0 && resident.length === steps && Math.abs(change) <= TOLERANCE ? 0 : 1;
