// How well words are classified: accuracy by word; by entity precision, recall and F1 as seqeval counts them, or by tag where tags name none.
import { grouped } from "../../units.ts";
import { classTable } from "../common/classification.ts";
import {
  type ClassCounts,
  type ClassMeasures,
  classificationMeasures,
  classMeasures,
  noCounts,
  predictedClasses,
  summed,
} from "../common/classification-measures.ts";
import { figureColumns, meanLoss, meanOf } from "../common/measures.ts";
import type { Measure, Measuring, ScoreTable } from "../task.ts";
import { entitiesOf, namesEntities } from "./entities.ts";

export interface TagMeasures {
  /** Words with a tag, and those whose tag was found. */
  count: number;
  correct: number;
  accuracy: number;
  /** What the rest counts: entities, or tags where these name none. */
  counted: "entities" | "tags";
  /** Of all entities together (micro); or the means over the tags that occur (macro). */
  precision: number;
  recall: number;
  f1: number;
  /** Each type of entity that occurs, by name; or each tag, in the order of the logits. */
  classes: ClassMeasures[];
}

/** The mean cross-entropy of the words in nats, and how they were classified. */
export interface TagScore extends TagMeasures {
  loss: number;
}

/** The tags of the words of a text, as indices into the labels. */
type Tags = readonly number[];

/** Measures of texts whose tags are `expected`, tagged as `predicted`. A share of nothing is 0. */
export function tagMeasures(expected: readonly Tags[], predicted: readonly Tags[], labels: readonly string[]): TagMeasures {
  const byTag = classificationMeasures(expected.flat(), predicted.flat(), labels);
  const { count, correct, accuracy } = byTag;
  const words = { count, correct, accuracy };
  if (namesEntities(labels)) {
    const names = (tags: Tags) => tags.map((tag) => labels[tag]!);
    return { ...words, counted: "entities", ...entityMeasures(expected.map(names), predicted.map(names)) };
  }
  const { classes, macroF1: f1 } = byTag;
  const said = new Set([...expected, ...predicted].flat());
  const occurring = classes.filter((_, i) => said.has(i));
  const mean = (of: "precision" | "recall") => meanOf(occurring.map((one) => one[of]));
  return { ...words, counted: "tags", precision: mean("precision"), recall: mean("recall"), f1, classes };
}

/** An entity is found where one of its type has the same first and last word. */
function entityMeasures(
  expected: readonly string[][],
  predicted: readonly string[][],
): Pick<TagMeasures, "precision" | "recall" | "f1" | "classes"> {
  const types = new Map<string, ClassCounts>();
  const countsOf = (label: string): ClassCounts => {
    const counts = types.get(label) ?? noCounts();
    types.set(label, counts);
    return counts;
  };
  for (const [i, tags] of expected.entries()) {
    const own = entitiesOf(tags);
    const keys = new Set(own.map((entity) => JSON.stringify(entity)));
    for (const { label } of own) countsOf(label).support++;
    for (const entity of entitiesOf(predicted[i]!)) {
      const counts = countsOf(entity.label);
      counts.said++;
      if (keys.has(JSON.stringify(entity))) counts.found++;
    }
  }
  const sorted = [...types].sort(([a], [b]) => (a < b ? -1 : 1));
  const { precision, recall, f1 } = classMeasures("", summed([...types.values()]));
  return { precision, recall, f1, classes: sorted.map(([label, counts]) => classMeasures(label, counts)) };
}

/** Of batches that feed `lossRows`, places in [rows, width], and `labels`, and give the `logits` of these. */
export function tagMeasure({ labels }: Measuring): Measure<TagScore> {
  const mean = meanLoss();
  const [expected, predicted]: [number[][], number[][]] = [[], []];
  return {
    add(ran) {
      mean.add(ran);
      const { inputIds, lossRows, labels: own } = ran.batch.feeds;
      const [rows, width] = inputIds!.shape as [number, number];
      const first = expected.length;
      for (let row = 0; row < rows; row++) for (const tags of [expected, predicted]) tags.push([]);
      for (const [i, tag] of predictedClasses(ran.results["logits"]!).entries()) {
        const text = first + Math.floor(Number(lossRows!.data[i]) / width);
        expected[text]!.push(Number(own!.data[i]));
        predicted[text]!.push(tag);
      }
    },
    score: () => ({ loss: mean.loss(), ...tagMeasures(expected, predicted, labels) }),
  };
}

/** Types or tags that are shown: those with the lowest F1. */
const WORST = 20;

export const tagScores: ScoreTable<TagScore> = {
  columns: figureColumns({ loss: "loss", accuracy: "accuracy", precision: "precision", recall: "recall", F1: "f1" }),
  details({ base, adapter }) {
    const { classes, counted, count, correct } = (adapter ?? base)!;
    const [of, words] = counted === "entities" ? ["of all entities", "entities"] : ["means over tags", "words"];
    return [
      ...(base ? [] : ["The base has no head of its own for these tags."]),
      `${grouped(correct)} of ${grouped(count)} words correct${adapter ? ", with the adapter" : ""}; precision, recall and F1 are ${of}:`,
      classTable(classes, words, WORST),
    ];
  },
};
