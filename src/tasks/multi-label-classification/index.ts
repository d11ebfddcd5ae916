// Multi-label classification: any number of classes for a text or a pair of texts, each by the logistic loss. Transformers' problem_type
// "multi_label_classification".
import type { Fields } from "../../data/records.ts";
import { mul, sub } from "../../graph/ops/elementwise.ts";
import { input, scalar } from "../../graph/ops/leaves.ts";
import { sumOf } from "../../graph/ops/reduction.ts";
import { modelOutputs } from "../../models/registry.ts";
import { float32 } from "../../tensor.ts";
import { classTable, textClassifier } from "../common/classification.ts";
import { type ClassMeasures, classMeasures, noCounts, summed } from "../common/classification-measures.ts";
import { isClassName, type Label, labelledTexts } from "../common/labelled.ts";
import { softplus } from "../common/losses.ts";
import { figureColumns, labelMeasure, meanOf, notFiniteScores, share } from "../common/measures.ts";
import { recordData } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { Measure, Measuring, ScoreTable, Task } from "../task.ts";

/** The mean logistic loss of the rows and classes in nats, and what was found. */
export interface MultiLabelScore {
  loss: number;
  /** Rows. */
  count: number;
  /** Share of the rows whose classes are all found, and no other. */
  subsetAccuracy: number;
  /** F1 over all rows and classes together, and the mean of the classes' own; 0 where nothing is expected or found. */
  microF1: number;
  macroF1: number;
  /** Every class, in the order of the logits. */
  classes: ClassMeasures[];
}

/** Of `expected` and `found`, 0 or 1 for each row and class, [rows, labels]: scikit-learn's measures of indicator matrices. */
export function multiLabelMeasures(
  expected: ArrayLike<number>,
  found: ArrayLike<number>,
  labels: readonly string[],
): Omit<MultiLabelScore, "loss"> {
  const width = labels.length;
  const count = width === 0 ? 0 : expected.length / width;
  const of = labels.map(noCounts);
  let exact = 0;
  for (let row = 0; row < count; row++) {
    let isExact = true;
    for (const [i, one] of of.entries()) {
      const [own, said] = [expected[row * width + i]!, found[row * width + i]!];
      one.support += own;
      one.said += said;
      one.found += own * said;
      if (own !== said) isExact = false;
    }
    if (isExact) exact++;
  }
  const classes = of.map((counts, i) => classMeasures(labels[i]!, counts));
  return {
    count,
    subsetAccuracy: share(exact, count),
    microF1: classMeasures("", summed(of)).f1,
    macroF1: meanOf(classes.map(({ f1 }) => f1)),
    classes,
  };
}

const multiLabelMeasure = ({ labels }: Measuring): Measure<MultiLabelScore> =>
  labelMeasure(
    ({ data }) => Array.from(data, Number).map((logit) => (logit > 0 ? 1 : 0)),
    (expected, found) => multiLabelMeasures(expected, found, labels),
  );

const multiLabelScores: ScoreTable<MultiLabelScore> = {
  columns: figureColumns({
    loss: "loss",
    "micro F1": "microF1",
    "macro F1": "macroF1",
    "exact match": "subsetAccuracy",
  }),
  details({ base, adapter }) {
    const { classes } = (adapter ?? base)!;
    const worst = classTable(classes);
    return [
      ...(base ? [] : ["The base has no head of its own for these classes."]),
      `${worst.length > classes.length ? "The classes" : "The worst classes"}${adapter ? ", with the adapter" : ""}:`,
      worst,
    ];
  },
};

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
