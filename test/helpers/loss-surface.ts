// A training run without a model, for tests of sweeps: its loss is a function of learning rate, rank, method, seed and step, its time that of
// a clock of its own. It writes the log of a run and resumes where it ended, as `finetune` does.

import type { Train } from "../../src/commands/sweep/trial.ts";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { LowrankError } from "../../src/errors.ts";
import { readJsonObject } from "../../src/formats/json.ts";
import type { FinetuneOptions } from "../../src/train/options.ts";
import { type LoggedRow, openRunLog } from "../../src/train/run-log.ts";

/** Seconds that the parts of a run take. */
export interface Times {
  open: number;
  step: number;
  evaluation: number;
}

/** A learning rate of which the loss is not finite in the second step. */
export const DIVERGES = 1e30;
/** Steps of a run whose length is given in epochs. */
const STEPS_AN_EPOCH = 40;
const STATE = "checkpoint-state.json";

/** The lowest loss is at a learning rate of 1e-2, a high rank and many steps. */
export function lossOn({ learningRate, rank = 8, method, seed = 0 }: FinetuneOptions, step: number): number {
  return 1 + Math.log10(learningRate! / 1e-2) ** 2 + (method === "full" ? 0.01 : 1 / rank!) + 0.01 * seed + 4 / (step + 1);
}

/** Trains on the surface; `advance` is called with the seconds that pass. Of several processes the first writes. */
export function surfaceTraining(times: () => Times, advance: (seconds: number) => void): Train {
  return async function* train(options, { files, team }) {
    const { output, steps: given, epochs, evalEvery, learningRate, signal } = options;
    const steps = given ?? Math.ceil(epochs! * STEPS_AN_EPOCH);
    const { rank = 0, size = 1 } = team ?? {};
    const writes = rank === 0;
    const state = `${output}/${STATE}`;
    const begun = options.resume && (await files.exists(state)) ? ((await readJsonObject(files, state))["step"] as number) : 0;
    if (signal?.aborted && size === 1) throw new LowrankError("train/stopped", "stopped", { next: "Resume it." });
    if (writes && !(await files.exists(output))) await files.makeFolder(output);
    const log = writes ? await openRunLog(files, output) : null;
    const add = async (row: LoggedRow) => log?.add(row);
    const save = async (step: number) => {
      if (writes) await files.write(state, new TextEncoder().encode(JSON.stringify({ step })));
    };
    advance(times().open);
    yield { type: "prepared", trainable: 100 * (options.rank ?? 8) } as FinetuneEvent;
    await add({ type: "start", step: begun, steps });
    yield { type: "start", step: begun, steps } as FinetuneEvent;
    let step = begun;
    while (step < steps && !signal?.aborted) {
      step++;
      if (learningRate! >= DIVERGES && step > 1) {
        await log?.flush();
        throw new LowrankError("train/non-finite", `the loss is Infinity at step ${step}`, { next: "Lower it." });
      }
      const seconds = times().step;
      advance(seconds);
      const row = { step, loss: lossOn(options, step), learningRate: learningRate!, gradNorm: 1, tokens: 1, tokensPerSecond: 1 };
      await add({ type: "step", ...row, seconds, memoryBytes: null });
      yield { type: "step", ...row, seconds, memoryBytes: null } as FinetuneEvent;
      if (step % evalEvery! !== 0 && step !== steps) continue;
      advance(times().evaluation);
      const evaluation = { step, loss: lossOn(options, step) + 0.5 };
      await add({ type: "eval", ...evaluation });
      await log?.flush();
      await save(step);
      yield { type: "eval", ...evaluation } as FinetuneEvent;
    }
    await save(step);
    const isWhole = step === steps;
    await add({ type: "done", step, stopped: !isWhole, early: false, result: isWhole ? step : null, best: null, seconds: 1 });
    await log?.flush();
  };
}
