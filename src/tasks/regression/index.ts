// Regression: a number for a text or a pair of texts, by squared error. Transformers' ForSequenceClassification with problem_type
// "regression".
import { textClassifier } from "../common/classification.ts";
import { type LabelledText, labelledTexts } from "../common/labelled-texts.ts";
import { encodeTexts, type RecordKind, recordData } from "../common/record-data.ts";
import {
  numberFeeds,
  predictedNumber,
  type RegressionScore,
  readNumber,
  regressionMeasure,
  regressionScores,
  squaredError,
} from "../common/regression.ts";
import type { Task } from "../task.ts";

const records: RecordKind<LabelledText<number>> = {
  formats: (columns) => labelledTexts("numbers", columns, readNumber, ["label", "score"]),
  answers: ["label"],
  hasClasses: false,
  async example({ text, textPair, label }, _, parts) {
    const { whole, isCut } = encodeTexts(text, textPair ?? null, parts);
    return { whole: { ...whole, value: label }, isCut };
  },
  feeds: numberFeeds,
};

export const regression: Task<RegressionScore> = {
  ...textClassifier,
  what: "regression",
  problemType: "regression",
  labels: ["LABEL_0"],
  data: (base, options, host) => recordData(records, base, options, host),
  loss: squaredError,
  measure: regressionMeasure,
  figures: ({ mae, pearson }) => ({ mae, pearson }),
  scores: regressionScores,
  prediction: { classify: { reads: "text", read: predictedNumber } },
};
