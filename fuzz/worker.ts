// The thread that fuzz/fuzz.ts watches: runs of one target after another, each announced before it begins.
import { parentPort, workerData } from "node:worker_threads";
import { runOnce } from "./run.ts";
import type { Target } from "./targets.ts";

interface Data {
  /** Path of the compiled module that exports the targets. */
  targets: string;
  names: string[];
  seed: number;
  first: number;
  last: number;
  step: number;
  progress: SharedArrayBuffer;
}

const { names, seed, first, last, step, progress, ...data } = workerData as Data;
const { targets }: { targets: Target[] } = await import(data.targets);
const announced = new Int32Array(progress);
for (let run = first; run < last; run += step) {
  Atomics.store(announced, 0, run);
  const target = targets.find(({ name }) => name === names[run % names.length])!;
  const outcome = await runOnce(target, seed, Math.floor(run / names.length));
  if (outcome.fault) parentPort?.postMessage({ run, fault: outcome.fault });
  else Atomics.add(announced, outcome.refused ? 2 : 1, 1);
}
