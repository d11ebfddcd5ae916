// Regression: a number for a text or a pair of texts, by squared error. Transformers' ForSequenceClassification with problem_type
// "regression".
import { textClassifier } from "../common/classification.ts";
import { labelledTexts } from "../common/labelled.ts";
import { recordData } from "../common/record-data.ts";
import { numberLabel, numberTask, predictedNumber, type RegressionScore } from "../common/regression.ts";
import type { Task } from "../task.ts";

export const regression: Task<RegressionScore> = {
  ...textClassifier,
  ...numberTask,
  what: "regression",
  data: recordData(labelledTexts(numberLabel)),
  prediction: { classify: { reads: "text", read: predictedNumber } },
};
