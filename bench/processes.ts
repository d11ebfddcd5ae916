// What several processes make of one machine: `bench/processes.ts MODEL_DIR [--rows 4] [--tokens 128] [--steps 6] [--counts 2,4,8] [--rank 8]
// [--mpi "mpirun.openmpi --allow-run-as-root --oversubscribe --bind-to none -n"]`, after npm run build. One process with all cores is the
// measure; N processes have their share of the cores, one at least, and the rows of a step between them. Rows are equally long. Each
// layout is run twice, in turn; seconds are the median over the steps behind the first two.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { median } from "./median.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rows: { type: "string", default: "4" },
    tokens: { type: "string", default: "128" },
    steps: { type: "string", default: "6" },
    counts: { type: "string", default: "2,4,8" },
    rank: { type: "string", default: "8" },
    mpi: { type: "string", default: "mpirun.openmpi --allow-run-as-root --oversubscribe --bind-to none -n" },
  },
});

const place = mkdtempSync(path.join(tmpdir(), "lowrank-processes-"));
process.on("exit", () => rmSync(place, { recursive: true, force: true }));
const data = path.join(place, "rows.jsonl");
const text = Array.from({ length: Number(values.tokens) }, (_, i) => `word${i}`).join(" ");
writeFileSync(data, `${JSON.stringify({ text })}\n`.repeat(8 * Number(values.rows)));

/** Seconds of each step, behind the first two. */
function run(processes: number): number[] {
  const output = path.join(place, `${processes}`);
  rmSync(output, { recursive: true, force: true });
  const [mpirun, ...options] = values.mpi.split(" ");
  const launcher = processes === 1 ? [] : [mpirun!, ...options, String(processes)];
  const flags = {
    base: positionals[0]!,
    data,
    output,
    steps: String(Number(values.steps) + 2),
    "batch-size": values.rows,
    "max-length": values.tokens,
    rank: values.rank,
    memory: "keep",
  };
  const given = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const [command, ...args] = [...launcher, process.execPath, "dist/cli/main.js", "train", ...given];
  const { status, stderr } = spawnSync(command!, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  const events = readFileSync(path.join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  const steps = events.map((line) => JSON.parse(line)).filter(({ type }) => type === "step");
  return steps.slice(2).map(({ seconds }) => seconds);
}

const counts = [1, ...values.counts.split(",").map(Number)];
const seconds = new Map<number, number[]>(counts.map((count) => [count, []]));
for (let round = 0; round < 2; round++) for (const count of counts) seconds.get(count)!.push(...run(count));
const alone = median(seconds.get(1)!);
for (const [processes, all] of seconds) {
  const threads = Math.max(1, Math.floor(availableParallelism() / processes));
  const step = median(all);
  console.log(JSON.stringify({ processes, threads, seconds: step, least: Math.min(...all), speed: alone / step }));
}
