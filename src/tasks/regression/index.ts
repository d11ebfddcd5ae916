// Regression: a number for a text or a pair of texts, by squared error. Transformers' problem_type "regression" with one output.
import type { Fields } from "../../data/records.ts";
import { mul, sub } from "../../graph/ops/elementwise.ts";
import { input } from "../../graph/ops/leaves.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { modelOutputs } from "../../models/registry.ts";
import { float32 } from "../../tensor.ts";
import { needsPadding, notFinite } from "../common/classification.ts";
import { type LabelledText, labelledTexts } from "../common/labelled-texts.ts";
import { sumOf } from "../common/losses.ts";
import { meanLoss } from "../common/measures.ts";
import { encodeTexts, type RecordKind, recordData } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { Measure, Task } from "../task.ts";
import { type RegressionMeasures, regressionMeasures } from "./measures.ts";

function readNumber(row: Fields, key: string): number {
  const given = row.value(key);
  const value = typeof given === "string" && given.trim() === "" ? Number.NaN : Number(given ?? Number.NaN);
  if (!Number.isFinite(Math.fround(value))) throw row.wrong(key, "a number");
  return value;
}

const records: RecordKind<LabelledText<number>> = {
  formats: (columns) => labelledTexts("numbers", columns, readNumber, ["label", "score"]),
  answers: ["label"],
  hasClasses: false,
  async example({ text, textPair, label }, _, parts) {
    const { whole, isCut } = encodeTexts(text, textPair ?? null, parts);
    return { whole: { ...whole, value: label }, isCut };
  },
  feeds: (rows) => ({
    labels: float32(
      [rows.length],
      Float32Array.from(rows, ({ value }) => value!),
    ),
  }),
};

/** The mean squared error as `loss`, and how the predictions go with the numbers. */
export interface RegressionScore extends RegressionMeasures {
  loss: number;
}

function measure(): Measure<RegressionScore> {
  const mean = meanLoss();
  const [expected, predicted]: [number[], number[]] = [[], []];
  return {
    add(ran) {
      mean.add(ran);
      for (const value of ran.batch.feeds["labels"]!.data) expected.push(Number(value));
      for (const value of ran.results["logits"]!.data) predicted.push(Number(value));
    },
    score: () => ({ loss: mean.loss(), ...regressionMeasures(expected, predicted) }),
  };
}

export const regression: Task<RegressionScore> = {
  what: "regression",
  head: "sequence-classifier",
  problemType: "regression",
  labels: ["LABEL_0"],
  peft: { taskType: "SEQ_CLS" },
  columns: ["textColumn", "textPairColumn", "labelColumn"],
  takes: [],
  unit: "examples",
  evalBatchSize: 32,
  check: needsPadding,
  data: (base, options, host) => recordData(records, base, options, host),
  loss(config) {
    const { logits } = modelOutputs(config); // [batch, 1]
    const error = sub(reshape(logits!, [logits!.shape[0]!]), input("labels", "float32", ["batch"])); // [batch]
    return { outputs: { loss: sumOf(mul(error, error)), logits: logits! } };
  },
  measure,
  figures: ({ mae, pearson }) => ({ mae, pearson }),
  scores: {
    columns: [
      ["loss", ({ loss }) => loss.toFixed(4)],
      ["RMSE", ({ rmse }) => rmse.toFixed(4)],
      ["MAE", ({ mae }) => mae.toFixed(4)],
      ["Pearson", ({ pearson }) => pearson.toFixed(4)],
      ["Spearman", ({ spearman }) => spearman.toFixed(4)],
    ],
    details: ({ base }) => (base ? [] : ["The base has no head of its own for numbers."]),
  },
  preview: recordPreview,
  prediction: {
    classify: {
      reads: "text",
      read(logits) {
        if (!Number.isFinite(logits[0])) throw notFinite(logits);
        return { scores: [], value: logits[0]! };
      },
    },
  },
};
