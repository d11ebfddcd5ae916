// What LoRA steps need here: a line when the first step has finished, and one of JSON at the end. `step.ts MODEL_DIR --tokens 512 --batch 1 [--steps 6] [--rank 8] [--threads 2]
// [--memory keep|products|recompute|stream] [--base-dtype float32|bfloat16|int8|int4] [--warmup 2] [--pass-tokens 1024] [--profile FILE]`.
// One step = forward, backward and AdamW on random tokens, every position a target, LoRA on all linear layers, no dropout; a batch is
// computed in parts as `train` does.
// Seconds are the median over the steps after the warm-up; rss_mb is the process's own peak,
// cpu_seconds the processor time of a step over all threads: near threads × seconds unless other programs ran.
import { existsSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { loraConfig } from "../src/adapters/config.ts";
import { initAdapter } from "../src/adapters/init.ts";
import { thetaOf } from "../src/adapters/layout.ts";
import { matchModules } from "../src/adapters/match.ts";
import { collate, passesOf } from "../src/data/collate.ts";
import { inMemory } from "../src/data/store.ts";
import { entryOf } from "../src/formats/checkpoint.ts";
import { loadBase } from "../src/models/base.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { openNodeSession } from "../src/platform/node/session.ts";
import { uniform } from "../src/random.ts";
import { devices } from "../src/runtime/devices.ts";
import { lossGraph } from "../src/tasks/common/losses.ts";
import { shapeOf } from "../src/train/datasets.ts";
import { formsOf, type MemoryMode, memoryModes } from "../src/train/execution.ts";
import { loraObjective } from "../src/train/objective.ts";
import { parameterRanges, update } from "../src/train/optimizer.ts";
import { lossAndGradient } from "../src/train/step.ts";
import { median } from "./median.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: "string", default: "512" },
    batch: { type: "string", default: "1" },
    steps: { type: "string", default: "6" },
    rank: { type: "string", default: "8" },
    threads: { type: "string", default: String(availableParallelism()) },
    profile: { type: "string" },
    memory: { type: "string", default: "keep" },
    "base-dtype": { type: "string", default: "float32" },
    warmup: { type: "string", default: "2" },
    "pass-tokens": { type: "string", default: String(devices.cpu.passTokens) },
  },
});
const [tokens, rows, steps, rank, threads] = [values.tokens, values.batch, values.steps, values.rank, values.threads].map(
  Number,
) as [number, number, number, number, number];

const memory = values.memory as MemoryMode;
const baseDtype = values["base-dtype"] as "float32";
const warmup = Number(values.warmup);

const opening = performance.now();
const base = await loadBase(nodeFiles, positionals[0]!);
const config = loraConfig({ rank, alpha: 2 * rank, targetModules: "all-linear" });
const modules = matchModules(base.modules, config, base.config.modelType);
const draws = uniform(0, [0, 0, 0], rows * tokens);
const examples = Array.from({ length: rows }, (_, row) => {
  const ids = Int32Array.from({ length: tokens }, (_, i) => Math.floor(draws[row * tokens + i]! * base.config.vocabSize));
  return { ids, labels: ids };
});
const collated = collate(inMemory(examples), 0);
const all = examples.map((_, row) => row);
const passes = passesOf(collated, all, Number(values["pass-tokens"]));
const sizes = passes.map(collated.size);
const batches = await Promise.all(passes.map(collated.batch));
let waited = 0;
const objective = await loraObjective({
  onWaited: (seconds) => {
    waited += seconds;
  },
  stages: {
    ...memoryModes[memory],
    form: formsOf(baseDtype, { dtypeOf: (name) => entryOf(base.checkpoint, name)?.dtype, integers: true }),
  },
  checkpoint: base.checkpoint,
  loss: lossGraph(base.config, shapeOf(sizes)),
  config,
  modules,
  dropout: 0,
  openSession: openNodeSession,
  threads,
  profile: values.profile,
  first: async () => batches[0]!,
});
const openSeconds = (performance.now() - opening) / 1000;

const theta = thetaOf({ config, modules, tensors: initAdapter(modules, config, 0) });
const moments = { m: new Float32Array(theta.length), v: new Float32Array(theta.length), step: 0 };
const ranges = parameterRanges(objective.entries, { learningRate: 2e-4, weightDecay: 0.01 });

const seconds: number[] = [];
const cpuSeconds: number[] = [];
const losses: number[] = [];
/** Of steps with weights that stream: seconds of waiting for them, and bytes read, from the disk or the page cache and from the disk alone. */
const waits: number[] = [];
const reads: number[][] = [];
const bytesRead = () => /rchar: (\d+)[\s\S]*read_bytes: (\d+)/.exec(readFileSync("/proc/self/io", "utf8"))!.slice(1).map(Number);
/** Only Linux says what a process has read. */
const isCounted = memory === "stream" && existsSync("/proc/self/io");
for (let step = 0; step < steps + warmup; step++) {
  const [start, used, before] = [performance.now(), process.cpuUsage(), isCounted ? bytesRead() : []];
  waited = 0;
  const { loss, gradient } = await lossAndGradient(objective, theta, batches, { seed: 0, step }, false);
  update(theta, gradient!, moments, ranges, 1, { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
  seconds.push((performance.now() - start) / 1000);
  const { user, system } = process.cpuUsage(used);
  cpuSeconds.push((user + system) / 1e6);
  losses.push(loss);
  waits.push(waited);
  if (isCounted) reads.push(bytesRead().map((bytes, i) => bytes - before[i]!));
  if (step === 0) console.log("first step"); // main.ts takes the time since the command's start
}
await objective.close();

const step = median(seconds.slice(warmup));
const round = (value: number, digits: number) => Number(value.toFixed(digits));
console.log(
  JSON.stringify({
    tool: "lowrank",
    dtype: baseDtype,
    memory,
    tokens,
    batch: rows,
    seconds: round(step, 4),
    step_seconds: seconds.map((value) => round(value, 4)),
    cpu_seconds: round(median(cpuSeconds.slice(warmup)), 4),
    tokens_per_second: round((rows * tokens) / step, 1),
    ...(memory === "stream" && {
      waited_seconds: waits.map((value) => round(value, 2)),
      read_gb: reads.map(([all]) => round(all! / 1e9, 2)),
      disk_gb: reads.map(([, disk]) => round(disk! / 1e9, 2)),
    }),
    rss_mb: Math.round(process.resourceUsage().maxRSS / 1024),
    open_seconds: round(openSeconds, 2),
    first_step_seconds: round(seconds[0]!, 2),
    loss_first: losses[0],
    loss_last: losses.at(-1),
    trainable: theta.length,
  }),
);
