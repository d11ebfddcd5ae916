// Multi-label classification: any number of classes for a text or a pair of texts, each by the logistic loss. Transformers' problem_type
// "multi_label_classification".
import type { Fields } from "../../data/records.ts";
import { mul, sub } from "../../graph/ops/elementwise.ts";
import { input, scalar } from "../../graph/ops/leaves.ts";
import { sumOf } from "../../graph/ops/reduction.ts";
import { modelOutputs } from "../../models/registry.ts";
import { float32 } from "../../tensor.ts";
import { textClassifier } from "../common/classification.ts";
import { isClassName, type Label, labelledTexts } from "../common/labelled.ts";
import { softplus } from "../common/losses.ts";
import { notFiniteScores } from "../common/measures.ts";
import { recordData } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { Task } from "../task.ts";
import { type MultiLabelScore, multiLabelMeasure, multiLabelScores } from "./measures.ts";

/** A list of classes, by name or by number, or a text of names with commas between them; an empty one is of no class. */
function readClasses(row: Fields, key: string): string[] {
  const given = row.value(key);
  const names: unknown[] =
    typeof given === "string" ? (given.trim() === "" ? [] : given.split(",")) : Array.isArray(given) ? given : [null];
  if (!names.every(isClassName)) throw row.wrong(key, "a list of classes, or their names with commas between them");
  return [...new Set(names.map((name) => String(name).trim()))];
}

const classList: Label<string[]> = {
  name: "lists of classes",
  read: readClasses,
  keys: ["labels", "label"],
  hasClasses: true,
  learnt: (names, where, parts) => ({ classes: names.map((name) => parts.classes!.numberOf(name, where)) }),
  feeds(rows, parts) {
    const classes = parts.classes!;
    const width = classes.labels().length;
    const labels = new Float32Array(rows.length * width); // [batch, classes]: 1 where a row is of a class
    for (const [r, { classes: own = [] }] of rows.entries())
      for (const number of own) labels[r * width + classes.placeOf(number)] = 1;
    return { labels: float32([rows.length, width], labels) };
  },
};

export const multiLabelClassification: Task<MultiLabelScore> & { classes: true } = {
  ...textClassifier,
  what: "multi-label classification",
  problemType: "multi_label_classification",
  classes: true,
  data: recordData(labelledTexts(classList)),
  loss(config) {
    const { logits } = modelOutputs(config); // [batch, classes]
    const labels = input("labels", "float32", logits!.shape);
    const each = sub(softplus(logits!), mul(labels, logits!)); // -y · log σ(z) - (1 - y) · log σ(-z)
    return { outputs: { loss: mul(sumOf(each), scalar(1 / config.labels.length, each)), logits: logits! } };
  },
  measure: multiLabelMeasure,
  figures: ({ microF1 }) => ({ microF1 }),
  scores: multiLabelScores,
  async preview(context) {
    const usual = await recordPreview(context);
    const classes = context.data.classes!;
    return {
      ...usual,
      async show(made) {
        const names = (made.whole.classes ?? []).map((number) => classes.labels()[classes.placeOf(number)]!);
        return { ...(await usual.show(made)), label: names.join(", ") || "none" };
      },
    };
  },
  prediction: {
    classify: {
      reads: "text",
      read(logits, labels) {
        if (!logits.every(Number.isFinite)) throw notFiniteScores(logits);
        const scores = labels.map((label, i) => ({ label, probability: 1 / (1 + Math.exp(-logits[i]!)) }));
        return { scores: scores.sort((a, b) => b.probability - a.probability) };
      },
    },
  },
};
