// The demo: an adapter for the embedded base on the task that lies beside it, and held-out answers before and after.

import { ADAPTER_WEIGHTS_NAME } from "../../adapters/peft-files.ts";
import { stopwatch } from "../../clock.ts";
import type { Platform } from "../../platform/platform.ts";
import { type AnswerEvent, answers } from "../eval/answers.ts";
import { type FinetuneEvent, finetune } from "../train/finetune.ts";

/** How the adapter is trained: fast enough for a first minute on two cores. */
const TRAINING = {
  rank: 16,
  alpha: 32,
  batchSize: 16,
  learningRate: 5e-3,
  schedule: "cosine",
  warmup: 0.05,
  epochs: 1,
  // Checkpoints are for runs that can be interrupted: here there are those of the beginning and the end.
  checkpointEvery: 100_000,
  keepCheckpoints: 1,
} as const;
/** Held-out prompts that are answered at once. */
const ANSWERED_AT_ONCE = 50;

export interface DemoOptions {
  /** Folder of the base checkpoint, and what to call it. */
  base: string;
  baseName: string;
  /** Folder with train.jsonl and test.jsonl. */
  data: string;
  /** Folder for the adapter. */
  output: string;
  /** Steps in place of the whole data, and held-out records in place of all. */
  steps?: number;
  limit?: number;
}

/** What came out. Times are in seconds, sizes in bytes. */
export interface DemoResult {
  type: "result";
  /** Parameters of the adapter, and of the base. */
  trainable: number;
  parameters: number;
  modules: number;
  examples: number;
  steps: number;
  trainSeconds: number;
  answerSeconds: number;
  adapterBytes: number;
  heldOut: number;
  exactBefore: number;
  exactAfter: number;
}

export type DemoEvent = FinetuneEvent | AnswerEvent | DemoResult;

/** Trains, answers every held-out record without and with the adapter, and reports the results. */
export async function* demo(options: DemoOptions, platform: Platform): AsyncGenerator<DemoEvent, void, void> {
  const { base, baseName, data, output, steps, limit } = options;
  const trained = { trainable: 0, parameters: 0, modules: 0, examples: 0, steps: 0, trainSeconds: 0 };
  const answered = { heldOut: 0, exactBefore: 0, exactAfter: 0 };
  const { epochs, ...training } = TRAINING;
  const length = steps === undefined ? { epochs } : { steps };
  const run = finetune({ ...training, ...length, base, baseName, data: `${data}/train.jsonl`, output }, platform);
  for await (const event of run) {
    if (event.type === "prepared") {
      const { trainable, parameters, modules, train } = event;
      Object.assign(trained, { trainable, parameters, modules, examples: train.count });
    }
    if (event.type === "done") Object.assign(trained, { steps: event.step, trainSeconds: event.seconds });
    yield event;
  }
  const elapsed = stopwatch();
  const held = { base, adapter: output, data: `${data}/test.jsonl`, batchSize: ANSWERED_AT_ONCE, limit };
  for await (const event of answers(held, platform)) {
    if (event.type === "matches") {
      Object.assign(answered, { heldOut: event.count, exactBefore: event.base, exactAfter: event.adapter! });
    }
    yield event;
  }
  const answerSeconds = elapsed();
  const adapterBytes = await platform.files.size(`${output}/${ADAPTER_WEIGHTS_NAME}`);
  yield { type: "result", ...trained, answerSeconds, adapterBytes, ...answered };
}
