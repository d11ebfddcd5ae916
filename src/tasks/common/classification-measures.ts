// How well a classifier does: accuracy, F1 and the confusion matrix, by scikit-learn's definitions (metrics/_classification.py).
import type { Tensor } from "../../tensor.ts";
import { meanOf, share } from "./measures.ts";

/** How one class fares. A share of nothing is 0. */
export interface ClassMeasures {
  label: string;
  /** Of the rows that were said to be of the class, the share that are. */
  precision: number;
  /** Of the rows of the class, the share that were said to be. */
  recall: number;
  /** The harmonic mean of both. */
  f1: number;
  /** Rows of the class. */
  support: number;
}

/** How often rows of one class were said to be of another, or of their own. */
export interface Confusion {
  expected: number;
  predicted: number;
  count: number;
}

export interface ClassificationMeasures {
  /** Rows. */
  count: number;
  /** Rows whose class was found. */
  correct: number;
  accuracy: number;
  /** The mean F1 of the classes that occur, among the rows or among what was said of them; each counts the same. */
  macroF1: number;
  /** Every class, in the order of `labels`. */
  classes: ClassMeasures[];
  /** Expected and predicted classes, the most frequent pair first; pairs of classes that never occurred are left out. */
  confusions: Confusion[];
}

/** Of the rows, or of the words, those of a class, those that were said to be, and those that are both. */
export interface ClassCounts {
  support: number;
  said: number;
  found: number;
}

export const noCounts = (): ClassCounts => ({ support: 0, said: 0, found: 0 });

/** Counts of classes together. */
export const summed = (counts: readonly ClassCounts[]): ClassCounts =>
  counts.reduce(
    (sum, { support, said, found }) => ({ support: sum.support + support, said: sum.said + said, found: sum.found + found }),
    noCounts(),
  );

export const classMeasures = (label: string, { support, said, found }: ClassCounts): ClassMeasures => ({
  label,
  precision: share(found, said),
  recall: share(found, support),
  f1: share(2 * found, said + support),
  support,
});

/**
 * Measures of a classifier. `expected` and `predicted` hold the class of each row as an index into `labels`; both have the
 * same length. Of no rows every measure is 0.
 */
export function classificationMeasures(
  expected: ArrayLike<number>,
  predicted: ArrayLike<number>,
  labels: readonly string[],
): ClassificationMeasures {
  const of = labels.map(noCounts);
  const pairs = new Map<number, number>(); // expected · labels + predicted → count
  for (let row = 0; row < expected.length; row++) {
    const [own, said] = [expected[row]!, predicted[row]!];
    of[own]!.support++;
    of[said]!.said++;
    if (own === said) of[own]!.found++;
    const pair = own * labels.length + said;
    pairs.set(pair, (pairs.get(pair) ?? 0) + 1);
  }
  const classes = labels.map((label, i) => classMeasures(label, of[i]!));
  const occurring = classes.filter((_, i) => of[i]!.support + of[i]!.said > 0);
  const correct = summed(of).found;
  const confusions = [...pairs].map(([pair, count]): Confusion => {
    const predicted = pair % labels.length;
    return { expected: (pair - predicted) / labels.length, predicted, count };
  });
  return {
    count: expected.length,
    correct,
    accuracy: share(correct, expected.length),
    macroF1: meanOf(occurring.map(({ f1 }) => f1)),
    classes,
    confusions: confusions.sort((a, b) => b.count - a.count || a.expected - b.expected || a.predicted - b.predicted),
  };
}

/** The class of the highest logit in each row of logits [rows, classes]. */
export function predictedClasses({ data, shape }: Tensor): number[] {
  const [rows, classes] = shape as [number, number];
  return Array.from({ length: rows }, (_, row) => argmax((data as Float32Array).subarray(row * classes, (row + 1) * classes)));
}

/** The index of the largest of some numbers; the first of equal ones. */
export const argmax = (values: ArrayLike<number>): number => {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
};
