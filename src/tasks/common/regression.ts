// What tasks with one number a row share: how it is read and fed, their loss, what is measured, how it is shown. Transformers' problem_type
// "regression" with one output.
import type { Fields } from "../../data/records.ts";
import type { Example } from "../../data/types.ts";
import type { Graph } from "../../graph/graph.ts";
import { mul, sub } from "../../graph/ops/elementwise.ts";
import { input } from "../../graph/ops/leaves.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type ModelConfig, modelOutputs } from "../../models/registry.ts";
import { float32, type Tensor } from "../../tensor.ts";
import type { Classification, Measure, ScoreTable } from "../task.ts";
import { notFinite } from "./classification.ts";
import { pearson, spearman } from "./correlation.ts";
import { sumOf } from "./losses.ts";
import { labelMeasure } from "./measures.ts";

/** A number, or a text that is one, as in CSV files. Throws `data/value`. */
export function readNumber(row: Fields, key: string): number {
  const given = row.value(key);
  const value = typeof given === "string" && given.trim() !== "" ? Number(given) : given;
  if (typeof value === "number" && Number.isFinite(Math.fround(value))) return value;
  throw row.wrong(key, "a number");
}

/** The number of each row, float32 [rows], as `labels`. */
export const numberFeeds = (rows: readonly Example[]): Record<string, Tensor> => ({
  labels: float32(
    [rows.length],
    Float32Array.from(rows, ({ value }) => value!),
  ),
});

/** Σ (logits - labels)² over the rows, from `labels` float32 [batch]; the logits beside it. */
export function squaredError(config: ModelConfig): Graph {
  const { logits } = modelOutputs(config); // [batch, 1]
  const error = sub(reshape(logits!, [logits!.shape[0]!]), input("labels", "float32", ["batch"])); // [batch]
  return { outputs: { loss: sumOf(mul(error, error)), logits: logits! } };
}

/** Errors as scikit-learn defines them, correlations as SciPy does. */
export interface RegressionScore {
  /** The mean squared error. */
  loss: number;
  /** Rows. */
  count: number;
  /** Root of the mean squared error, and the mean absolute error. */
  rmse: number;
  mae: number;
  /** Correlations of predictions with the numbers, -1 to 1; 0 where either does not vary. */
  pearson: number;
  spearman: number;
}

export function regressionMeasures(expected: readonly number[], predicted: readonly number[]): Omit<RegressionScore, "loss"> {
  const count = expected.length;
  const errors = expected.map((value, i) => predicted[i]! - value);
  const mean = (values: number[]) => (count === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / count);
  return {
    count,
    rmse: Math.sqrt(mean(errors.map((error) => error * error))),
    mae: mean(errors.map(Math.abs)),
    pearson: pearson(expected, predicted) ?? 0,
    spearman: spearman(expected, predicted) ?? 0,
  };
}

export const regressionMeasure = (): Measure<RegressionScore> =>
  labelMeasure(({ data }) => Array.from(data, Number), regressionMeasures);

export const regressionScores: ScoreTable<RegressionScore> = {
  columns: [
    ["loss", ({ loss }) => loss.toFixed(4)],
    ["RMSE", ({ rmse }) => rmse.toFixed(4)],
    ["MAE", ({ mae }) => mae.toFixed(4)],
    ["Pearson", ({ pearson }) => pearson.toFixed(4)],
    ["Spearman", ({ spearman }) => spearman.toFixed(4)],
  ],
  details: ({ base }) => (base ? [] : ["The base has no head of its own for numbers."]),
};

/** The one logit as the number that is predicted. Fails with `predict/not-finite`. */
export function predictedNumber(logits: Float32Array): Omit<Classification, "cut"> {
  if (!Number.isFinite(logits[0])) throw notFinite(logits);
  return { scores: [], value: logits[0]! };
}
