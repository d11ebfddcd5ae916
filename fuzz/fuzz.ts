// Fuzzing with a watchdog: readers run in threads of limited memory; one that hangs, dies or throws what it should not is reported with its input.
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { compiled } from "../scripts/compile.mjs";
import { inputOf } from "./run.ts";
import type { Target } from "./targets.ts";

/** No run may take longer: above what a reader allows itself, on a machine that is busy. */
const RUN_LIMIT_MS = 20_000;
/** JavaScript memory of one thread. */
const MEMORY_MB = 512;
/** Faults after which there is no point in going on. */
const MAX_FAULTS = 50;

export interface FuzzOptions {
  seed: number;
  /** Runs of all targets together. */
  runs: number;
  /** Path of the module that exports `targets`, and which of them to run. */
  targets: string;
  only?: readonly string[];
  /** The first run of each target. */
  first?: number;
  threads?: number;
  runLimitMs?: number;
  /** Folder that gets the inputs of faults. */
  save?: string;
  onProgress?: (done: number) => void;
}

export interface Fault {
  target: string;
  run: number;
  what: string;
}

export interface FuzzResult {
  accepted: number;
  refused: number;
  faults: Fault[];
}

/** Runs `runs` damaged inputs through the readers. Every fault is reported once for each place that it is thrown from. */
export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const { seed, runs, only, first = 0, threads = 2, runLimitMs = RUN_LIMIT_MS, save, onProgress } = options;
  const all: Target[] = (await import(pathToFileURL(compiled(options.targets)).href)).targets;
  const unknown = only?.find((name) => !all.some((target) => target.name === name));
  if (unknown !== undefined) throw new Error(`no target ${unknown}; there are ${all.map(({ name }) => name).join(", ")}`);
  const chosen = only ? all.filter(({ name }) => only.includes(name)) : all;
  const names = chosen.map(({ name }) => name);
  const result: FuzzResult = { accepted: 0, refused: 0, faults: [] };
  const seen = new Set<string>();

  const found = (index: number, what: string): void => {
    const [target, run] = [chosen[index % names.length]!, Math.floor(index / names.length)];
    const place = `${target.name} ${what.split("\n").slice(0, 3).join("\n").replaceAll(/\d+/g, "0")}`;
    if (seen.has(place)) return;
    seen.add(place);
    result.faults.push({ target: target.name, run, what });
    if (!save) return;
    for (const [name, bytes] of Object.entries(inputOf(target, seed, run))) {
      const file = path.join(save, `${target.name}-${seed}-${run}`, name);
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, bytes);
    }
  };

  /** Runs from `start` on, every `threads`-th, until a thread ends; the next one goes on behind the run that stopped it. */
  async function share(start: number, last: number): Promise<void> {
    for (let next = start; next < last && result.faults.length < MAX_FAULTS; ) {
      const progress = new SharedArrayBuffer(12);
      const announced = new Int32Array(progress).fill(-1, 0, 1);
      const at = await new Promise<number>((resolve) => {
        const worker = new Worker(compiled("fuzz/worker.ts"), {
          workerData: {
            targets: pathToFileURL(compiled(options.targets)).href,
            names,
            seed,
            first: next,
            last,
            step: threads,
            progress,
          },
          resourceLimits: { maxOldGenerationSizeMb: MEMORY_MB },
        });
        let since = performance.now();
        let before = -1;
        const watch = setInterval(
          () => {
            const now = Atomics.load(announced, 0);
            if (now !== before) {
              [before, since] = [now, performance.now()];
              onProgress?.(Math.max(0, now - first * names.length));
            } else if (now >= 0 && performance.now() - since > runLimitMs) {
              found(now, `a hang: no end after ${runLimitMs} ms`);
              worker.terminate();
            }
          },
          Math.min(500, runLimitMs / 4),
        );
        worker.on("message", ({ run, fault }: { run: number; fault: string }) => found(run, fault));
        worker.on("error", (error) => found(Math.max(start, Atomics.load(announced, 0)), `the thread died: ${error.stack}`));
        worker.on("exit", (code) => {
          clearInterval(watch);
          resolve(code === 0 ? last : Math.max(next, Atomics.load(announced, 0)) + threads);
        });
      });
      result.accepted += Atomics.load(announced, 1);
      result.refused += Atomics.load(announced, 2);
      next = at;
    }
  }

  const from = first * names.length;
  await Promise.all(Array.from({ length: threads }, (_, thread) => share(from + thread, from + runs)));
  return result;
}
