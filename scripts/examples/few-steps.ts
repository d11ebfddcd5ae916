// The package as a short run of the examples imports it: training ends after a few steps, and the demo's test set has a few records.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import * as lowrank from "lowrank";

export * from "lowrank";

const STEPS = 3;
const RECORDS = 16;
const DEMO = "models/demo/test.jsonl";
const SHORT_DEMO = "example-output/few-tests.jsonl";

export const finetune: typeof lowrank.finetune = (options) =>
  lowrank.finetune({ ...options, steps: Math.min(options.steps ?? STEPS, STEPS), epochs: undefined });

export const evaluate = ((options: Parameters<typeof lowrank.evaluate>[0]) => {
  mkdirSync("example-output", { recursive: true });
  writeFileSync(SHORT_DEMO, readFileSync(DEMO, "utf8").split("\n").slice(0, RECORDS).join("\n"));
  return lowrank.evaluate({ ...options, ...(options.data === DEMO && { data: SHORT_DEMO }) });
}) as typeof lowrank.evaluate;
