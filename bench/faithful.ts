// How faithful a form of the frozen weights is: the gradient of an adapter against float32's, on real text.
// `faithful.ts MODEL_DIR [--form bfloat16 --form int8 …] [--data FILE] [--rows 8] [--batches 4] [--steps 10] [--train-on all] [--keep all]`
// First the adapter (LoRA r = 8, all linear layers) takes a few steps of AdamW in float32, so that B is not zero; then every form gives
// a JSON line: the cosine of the whole gradient to float32's over the batches (mean and least), and what the loss differs by.
import { parseArgs } from "node:util";
import { loraConfig } from "../src/adapters/config.ts";
import { initAdapter } from "../src/adapters/init.ts";
import { thetaOf } from "../src/adapters/layout.ts";
import { matchModules } from "../src/adapters/match.ts";
import { makeBatch } from "../src/data/batch.ts";
import { makeExamples } from "../src/data/dataset.ts";
import { readRecords } from "../src/data/readers.ts";
import { entryOf } from "../src/formats/checkpoint.ts";
import { forms } from "../src/graph/ops/stored.ts";
import { loadBase } from "../src/models/base.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { openNodeSession } from "../src/platform/node/session.ts";
import { lossGraph } from "../src/tasks/common/losses.ts";
import { formsOf } from "../src/train/execution.ts";
import { loraObjective, type OpenObjective } from "../src/train/objective.ts";
import { parameterRanges, update } from "../src/train/optimizer.ts";
import type { Keep, StageOptions } from "../src/train/stages.ts";

const E2E = new URL("../test/fixtures/smollm2-e2e/train.jsonl", import.meta.url).pathname;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    form: { type: "string", multiple: true, default: Object.keys(forms) },
    data: { type: "string", default: E2E },
    rows: { type: "string", default: "8" },
    batches: { type: "string", default: "4" },
    steps: { type: "string", default: "10" },
    "train-on": { type: "string", default: "completion" },
    keep: { type: "string", default: "all" },
    "max-length": { type: "string", default: "256" },
  },
});
const [rows, count, steps, maxLength] = [values.rows, values.batches, values.steps, values["max-length"]].map(Number) as [
  number,
  number,
  number,
  number,
];

const base = await loadBase(nodeFiles, positionals[0]!);
const tokenizer = await base.tokenizer();
const { examples } = await makeExamples(readRecords(nodeFiles, values.data), tokenizer, {
  maxLength,
  trainOn: values["train-on"] as "all" | "completion",
  source: values.data,
});
const batches = Array.from({ length: count + steps }, (_, i) => {
  const own = Array.from({ length: rows }, (_, row) => [examples[(i * rows + row) % examples.length]!]);
  return makeBatch(own, { padId: tokenizer.padId });
});
const config = loraConfig({ rank: 8, alpha: 16, targetModules: "all-linear" });
const modules = matchModules(base.modules, config, base.config.modelType);
const maxTargets = Math.max(...batches.map(({ targets }) => targets));
const open = (stages?: StageOptions): Promise<OpenObjective> =>
  loraObjective({
    stages,
    checkpoint: base.checkpoint,
    loss: lossGraph(base.config, { maxTargets, maxLength }),
    config,
    modules,
    dropout: 0,
    openSession: openNodeSession,
    first: async () => batches[count]!,
  });

const theta = thetaOf({ config, modules, tensors: initAdapter(modules, config, 0) });
const key = { seed: 0, step: 0, micro: 0 };
const measure = async (objective: OpenObjective) => {
  const found: { loss: number; gradient: Float32Array }[] = [];
  for (const batch of batches.slice(0, count)) {
    const { loss, gradient } = await objective.lossAndGradient(batch, theta, batch.targets, key);
    found.push({ loss, gradient: gradient.slice() });
  }
  return found;
};

const reference = await open();
const ranges = parameterRanges(reference.entries, { learningRate: 5e-4, weightDecay: 0 });
const moments = { m: new Float32Array(theta.length), v: new Float32Array(theta.length), step: 0 };
for (const batch of batches.slice(count)) {
  const { gradient } = await reference.lossAndGradient(batch, theta, batch.targets, key);
  update(theta, gradient, moments, ranges, 1, { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
}
const exact = await measure(reference);
await reference.close();

const mean = (numbers: readonly number[]) => numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
const dtypeOf = (name: string) => entryOf(base.checkpoint, name)?.dtype;
for (const form of values.form as ("bfloat16" | "int8" | "int8rotated" | "int4")[]) {
  const objective = await open({
    keep: values.keep as Keep,
    form: formsOf(form === "int8rotated" ? "int8" : form, { dtypeOf, integers: form === "int8rotated" }),
  });
  const found = await measure(objective);
  await objective.close();
  const cosines = found.map(({ gradient }, i) => cosine(gradient, exact[i]!.gradient));
  const differences = found.map(({ loss }, i) => loss - exact[i]!.loss);
  console.log(
    JSON.stringify({
      form,
      cosine: Number(mean(cosines).toFixed(5)),
      least: Number(Math.min(...cosines).toFixed(5)),
      loss: Number(mean(exact.map(({ loss }) => loss)).toFixed(4)),
      difference: Number(mean(differences).toFixed(5)),
      tokens: batches.slice(0, count).map(({ targets }) => targets),
    }),
  );
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (const [i, value] of a.entries()) {
    ab += value * b[i]!;
    aa += value * value;
    bb += b[i]! * b[i]!;
  }
  return ab / Math.sqrt(aa * bb);
}
