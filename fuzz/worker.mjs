// The thread that fuzz/fuzz.ts watches: runs of one target after another, each announced before it begins.
import { parentPort, workerData } from "node:worker_threads";
import { register } from "tsx/esm/api";

register();
const { runOnce } = await import("./run.ts");
const { targets } = await import(workerData.targets);

/** @type {{ names: string[], seed: number, first: number, last: number, step: number, progress: SharedArrayBuffer }} */
const { names, seed, first, last, step, progress } = workerData;
const announced = new Int32Array(progress);
for (let run = first; run < last; run += step) {
  Atomics.store(announced, 0, run);
  const target = targets.find((/** @type {{ name: string }} */ { name }) => name === names[run % names.length]);
  const outcome = await runOnce(target, seed, Math.floor(run / names.length));
  if (outcome.fault) parentPort?.postMessage({ run, fault: outcome.fault });
  else Atomics.add(announced, outcome.refused ? 2 : 1, 1);
}
