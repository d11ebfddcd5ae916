// What tasks with one number a row share: how it is read and fed, their loss, what is measured, how it is shown. Transformers' problem_type
// "regression" with one output.
import type { Fields } from "../../data/records.ts";
import type { Graph } from "../../graph/graph.ts";
import { mul, sub } from "../../graph/ops/elementwise.ts";
import { input } from "../../graph/ops/leaves.ts";
import { sumOf } from "../../graph/ops/reduction.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type ModelConfig, modelOutputs } from "../../models/registry.ts";
import { floatVector } from "../../tensor.ts";
import type { Classification, Task } from "../task.ts";
import type { Label } from "./labelled.ts";
import { figureColumns, labelMeasure, meanOf, notFiniteScores, pearson, spearman } from "./measures.ts";

/** A number, or a text that is one, as in CSV files. Throws `data/value`. */
export function readNumber(row: Fields, key: string): number {
  const given = row.value(key);
  const value = typeof given === "string" && given.trim() !== "" ? Number(given) : given;
  if (typeof value === "number" && Number.isFinite(Math.fround(value))) return value;
  throw row.wrong(key, "a number");
}

/** A number of a text or an image: what an example and a batch have of it, `labels` float32 [rows]. */
export const numberLabel: Label<number> = {
  name: "numbers",
  read: readNumber,
  keys: ["label", "score"],
  learnt: (value) => ({ value }),
  feeds: (rows) => ({ labels: floatVector(rows.map(({ value }) => value!)) }),
};

/** Σ (logits - labels)² over the rows, from `labels` float32 [batch]; the logits beside it. */
function squaredError(config: ModelConfig): Graph {
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

function regressionMeasures(expected: readonly number[], predicted: readonly number[]): Omit<RegressionScore, "loss"> {
  const errors = expected.map((value, i) => predicted[i]! - value);
  return {
    count: expected.length,
    rmse: Math.sqrt(meanOf(errors.map((error) => error * error))),
    mae: meanOf(errors.map(Math.abs)),
    pearson: pearson(expected, predicted) ?? 0,
    spearman: spearman(expected, predicted) ?? 0,
  };
}

/** What the rows of tasks with one number a row share. */
export const numberTask = {
  problemType: "regression",
  labels: ["LABEL_0"],
  loss: squaredError,
  measure: () => labelMeasure(({ data }) => Array.from(data, Number), regressionMeasures),
  figures: ({ mae, pearson }: RegressionScore) => ({ mae, pearson }),
  scores: {
    columns: figureColumns<RegressionScore>({
      loss: "loss",
      RMSE: "rmse",
      MAE: "mae",
      Pearson: "pearson",
      Spearman: "spearman",
    }),
    details: ({ base }: { base: RegressionScore | null }) => (base ? [] : ["The base has no head of its own for numbers."]),
  },
} as const satisfies Partial<Task<RegressionScore>>;

/** The one logit as the number that is predicted. Fails with `predict/not-finite`. */
export function predictedNumber(logits: Float32Array): Omit<Classification, "cut"> {
  if (!Number.isFinite(logits[0])) throw notFiniteScores(logits);
  return { scores: [], value: logits[0]! };
}
