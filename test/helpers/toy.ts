// A network small enough to differentiate by hand, for tests of the training loop: next token from a factored table.

import type { ThetaEntry } from "../../src/adapters/layout.ts";
import { makeBatch } from "../../src/data/batch.ts";
import type { Batch } from "../../src/data/types.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { purpose, uniform } from "../../src/random.ts";
import type { SaveWeights } from "../../src/train/checkpoint.ts";
import type { DataLoader } from "../../src/train/data-loader.ts";
import type { DropoutKey, Objective } from "../../src/train/objective.ts";
import { type OptimizerOptions, optimizerDefaults, type TrainOptions, type TrainOutput } from "../../src/train/trainer.ts";

export const VOCAB = 11;
const RANK = 3;

/** logits = dropout(A[x]) B with A [VOCAB, RANK], B [RANK, VOCAB]; loss is cross-entropy, the gradient is written out. */
export function toyObjective(dropout = 0): Objective {
  const entries: ThetaEntry[] = [
    { key: "toy.lora_A.weight", offset: 0, shape: [VOCAB, RANK], group: "A" },
    { key: "toy.lora_B.weight", offset: VOCAB * RANK, shape: [RANK, VOCAB], group: "B" },
  ];
  function pass(batch: Batch, theta: Float32Array, divisor: number, key?: DropoutKey) {
    const gradient = new Float32Array(theta.length);
    const [inputIds, lossRows, lossLabels] = ["inputIds", "lossRows", "lossLabels"].map((name) => [
      ...(batch.feeds[name]!.data as Int32Array),
    ]) as [number[], number[], number[]];
    const count = lossRows.length * RANK;
    const draws =
      key && dropout > 0 ? uniform(key.seed, [purpose.dropout, key.step, key.micro], count) : new Float32Array(count).fill(1);
    const keep = draws.map((draw) => (draw < dropout ? 0 : key ? 1 / (1 - dropout) : 1));
    let loss = 0;
    lossRows.forEach((row, n) => {
      const token = inputIds[row]!;
      const label = lossLabels[n]!;
      const hidden = Array.from({ length: RANK }, (_, k) => theta[token * RANK + k]! * keep[n * RANK + k]!);
      const b = (k: number, o: number) => VOCAB * RANK + k * VOCAB + o;
      const logits = Array.from({ length: VOCAB }, (_, o) => hidden.reduce((sum, h, k) => sum + h * theta[b(k, o)]!, 0));
      const exps = logits.map((logit) => Math.exp(logit));
      const z = exps.reduce((sum, e) => sum + e, 0);
      loss += Math.log(z) - logits[label]!;
      exps.forEach((e, o) => {
        const d = (e / z - (o === label ? 1 : 0)) / divisor;
        for (let k = 0; k < RANK; k++) {
          gradient[b(k, o)]! += d * hidden[k]!;
          gradient[token * RANK + k]! += d * theta[b(k, o)]! * keep[n * RANK + k]!;
        }
      });
    });
    return { loss: loss / divisor, gradient };
  }
  return {
    entries,
    lossAndGradient: async (batch: Batch, theta, divisor, key) => pass(batch, theta, divisor, key),
    evaluate: async (batch: Batch, theta) => ({
      loss: { dtype: "float64", shape: [], data: Float64Array.of(pass(batch, theta, 1).loss) },
    }),
  };
}

export const toyTheta = (): Float32Array => uniform(5, [purpose.init], 2 * VOCAB * RANK).map((value) => value - 0.5);

/** A right-padded batch in which every token but the first of a row is a target. */
export function toyBatch(rows: number[][]): Batch {
  const examples = rows.map((row) => ({ ids: Int32Array.from(row), labels: Int32Array.from(row) }));
  return makeBatch(examples, { padId: 0 });
}

/** `count` rows of 2 to 9 random tokens. */
export function toyRows(count: number, seed = 1): number[][] {
  const draws = uniform(seed, [purpose.sample], count * 10);
  return Array.from({ length: count }, (_, i) => {
    const [length, ...tokens] = draws.subarray(10 * i, 10 * i + 10);
    return tokens.slice(0, 2 + Math.floor(length! * 8)).map((draw) => Math.floor(draw * VOCAB));
  });
}

/** `rows` in order, `micro` micro-batches of one row a step, round and round. */
export function toyLoader(rows: number[][], micro: number): DataLoader {
  const stepsPerEpoch = Math.ceil(rows.length / micro);
  const row = (step: number, i: number) => rows[((step % stepsPerEpoch) * micro + i) % rows.length]!;
  return {
    stepsPerEpoch,
    microBatches: (step) => Array.from({ length: micro }, (_, i) => toyBatch([row(step, i)])),
    facts: { micro },
  };
}

export const toyOptimizer: OptimizerOptions = {
  ...optimizerDefaults,
  learningRate: 0.05,
  weightDecay: 0.01,
  schedule: "cosine",
  warmupSteps: 2,
};

export const saveToy: SaveWeights = async (to, folder, theta) => {
  const tensors = toyObjective().entries.map(({ key, offset, shape }) => ({
    name: key,
    dtype: "float32" as const,
    shape,
    data: () => bytesOf(theta.subarray(offset, offset + shape[0]! * shape[1]!)),
  }));
  await writeSafetensors(to, `${folder}/adapter_model.safetensors`, tensors, { format: "pt" });
};

/** A run of 6 steps into a folder, with dropout, micro-batches and evaluations. */
export const toyRun = (output: Partial<TrainOutput> & { folder: string }, change: Partial<TrainOptions> = {}): TrainOptions => ({
  objective: toyObjective(0.2),
  theta: toyTheta(),
  loader: toyLoader(toyRows(10), 3),
  steps: 6,
  seed: 3,
  optimizer: toyOptimizer,
  evaluation: { batches: [toyBatch(toyRows(10))], every: 2 },
  output: { files: nodeFiles, saveWeights: saveToy, ...output },
  ...change,
});
