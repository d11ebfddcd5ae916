// How well numbers are predicted: errors as scikit-learn defines them, correlations as SciPy does (ties get their mean rank).
import { pearson, spearman } from "../common/correlation.ts";

export interface RegressionMeasures {
  /** Rows. */
  count: number;
  /** Root of the mean squared error, and the mean absolute error. */
  rmse: number;
  mae: number;
  /** Correlations of predictions with the numbers, -1 to 1; 0 where either does not vary. */
  pearson: number;
  spearman: number;
}

export function regressionMeasures(expected: readonly number[], predicted: readonly number[]): RegressionMeasures {
  const count = expected.length;
  const errors = expected.map((value, i) => predicted[i]! - value);
  const mean = (values: number[]) => (count === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / count);
  return {
    count,
    rmse: Math.sqrt(mean(errors.map((error) => error * error))),
    mae: mean(errors.map(Math.abs)),
    pearson: pearson(expected, predicted),
    spearman: spearman(expected, predicted),
  };
}
