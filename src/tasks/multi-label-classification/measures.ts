// How well several classes a row are found, a class counting as found above a probability of 1/2: scikit-learn's measures of indicator matrices.
import { classTable } from "../common/classification.ts";
import { type ClassMeasures, classMeasures, noCounts, summed } from "../common/classification-measures.ts";
import { figureColumns, labelMeasure, meanOf, share } from "../common/measures.ts";
import type { Measure, Measuring, ScoreTable } from "../task.ts";

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

/** Of `expected` and `found`, 0 or 1 for each row and class, [rows, labels]. */
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

export const multiLabelMeasure = ({ labels }: Measuring): Measure<MultiLabelScore> =>
  labelMeasure(
    ({ data }) => Array.from(data, Number).map((logit) => (logit > 0 ? 1 : 0)),
    (expected, found) => multiLabelMeasures(expected, found, labels),
  );

export const multiLabelScores: ScoreTable<MultiLabelScore> = {
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
