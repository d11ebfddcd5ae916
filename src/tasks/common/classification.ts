// What tasks with one class a row share: their loss, what is measured, how it is shown.
import { LowrankError } from "../../errors.ts";
import type { Graph } from "../../graph/graph.ts";
import { input } from "../../graph/ops/leaves.ts";
import { crossEntropy } from "../../graph/ops/loss.ts";
import type { TextBase } from "../../models/base.ts";
import { type ModelConfig, modelInputs, modelOutputs } from "../../models/registry.ts";
import { intVector } from "../../tensor.ts";
import { grouped, oneLine } from "../../units.ts";
import type { Classification, Measuring, ScoreTable, Task } from "../task.ts";
import {
  type ClassificationMeasures,
  type ClassMeasures,
  classificationMeasures,
  predictedClasses,
} from "./classification-measures.ts";
import type { Label } from "./labelled.ts";
import { figureColumns, labelMeasure, notFiniteScores } from "./measures.ts";
import { recordTask } from "./record-data.ts";

/** The mean cross-entropy of the examples in nats, and how they were classified. */
export interface ClassifierScore extends ClassificationMeasures {
  loss: number;
}

/** Σ -log softmax(logits)[label] over the rows, from `labels` int32 [batch]; the logits beside it. */
function classLoss(config: ModelConfig): Graph {
  const { logits } = modelOutputs(config);
  return { outputs: { loss: crossEntropy(logits!, input("labels", "int32", ["batch"])), logits: logits! } };
}

/** What the rows of tasks on a classifier's head over a text, or over two, share. */
export const textClassifier = {
  ...recordTask,
  head: "sequence-classifier",
  pipeline: "text-classification",
  peft: { taskType: "SEQ_CLS" },
  columns: ["textColumn", "textPairColumn", "labelColumn"],
  check: needsPadding,
} as const satisfies Partial<Task>;

/** A class of a text or an image: what an example and a batch have of it, `labels` int32 [rows]. */
export const classLabel: Label<string> = {
  name: "classes",
  read: (row, key) => row.label(key),
  keys: ["label"],
  hasClasses: true,
  hasFolders: true,
  learnt: (label, where, { classes }) => ({ classes: [classes!.numberOf(label, where)] }),
  feeds: (rows, { classes }) => ({ labels: intVector(rows.map(({ classes: [own] = [] }) => classes!.placeOf(own!))) }),
};

/** Classes and confusions that are shown: the worst. */
const WORST = 5;
/** Of a label. */
const LABEL_CHARS = 40;

export const classificationScores: ScoreTable<ClassifierScore> = {
  columns: figureColumns({ loss: "loss", accuracy: "accuracy", "macro F1": "macroF1" }),
  details({ base, adapter }) {
    const { classes, confusions, count, correct } = (adapter ?? base)!;
    const label = (place: number) => oneLine(classes[place]!.label, LABEL_CHARS);
    const worst = classTable(classes);
    const wrong = confusions.filter(({ expected, predicted }) => expected !== predicted).slice(0, WORST);
    return [
      ...(base ? [] : ["The base has no head of its own for these classes."]),
      `${grouped(correct)} of ${grouped(count)} correct${adapter ? ", with the adapter" : ""}; ${worst.length > classes.length ? "its classes" : "the worst classes"}:`,
      worst,
      ...(wrong.length === 0 ? [] : ["most frequent confusions:"]),
      ...wrong.map((one) => `  ${label(one.expected)} for ${label(one.predicted)}: ${grouped(one.count)}`),
    ];
  },
};

/** What the rows of tasks with one class a row share. */
export const classTask = {
  problemType: "single_label_classification",
  classes: true,
  loss: classLoss,
  measure: ({ labels }: Measuring) =>
    labelMeasure(predictedClasses, (expected, predicted) => classificationMeasures(expected, predicted, labels)),
  figures: ({ accuracy }: ClassifierScore) => ({ accuracy }),
  scores: classificationScores,
} as const satisfies Partial<Task<ClassifierScore>>;

/** A table of the classes with the lowest F1 of those that occur, at most so many; `counted` is what their support counts. */
export function classTable(classes: readonly ClassMeasures[], counted = "examples", most = WORST): string[][] {
  const occurring = classes.filter(({ support }) => support > 0).sort((a, b) => a.f1 - b.f1);
  const rows = occurring
    .slice(0, most)
    .map(({ label, precision, recall, f1, support }) => [
      oneLine(label, LABEL_CHARS),
      ...[precision, recall, f1].map((share) => share.toFixed(4)),
      grouped(support),
    ]);
  return [["", "precision", "recall", "F1", counted], ...rows];
}

/**
 * Fails if a decoder has to classify several rows and config.json names no `pad_token_id`: where each row ends would not be known.
 * Transformers refuses it too.
 */
function needsPadding({ config, checkpoint }: TextBase, { batchSize }: { batchSize: number }): void {
  const readsLast = modelInputs(config)["positionIds"] !== undefined;
  if (!readsLast || config.padId !== null || batchSize === 1) return;
  throw new LowrankError("model/no-padding", "config.json names no padding token, which a classifier on a decoder needs", {
    subject: `${checkpoint.folder}/config.json`,
    expected: "pad_token_id, since the class is read at the last token that is not it; or one row a batch",
    got: "none",
    next: "Write the tokenizer's padding id (or its end-of-text id) into config.json as pad_token_id, or give --batch-size 1.",
  });
}

/** The classes by their logits, the most probable first, with softmax's probabilities. Fails with `predict/not-finite`. */
export function exclusiveScores(logits: Float32Array, labels: readonly string[]): Pick<Classification, "scores"> {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  if (!Number.isFinite(sum)) throw notFiniteScores(logits);
  const order = labels.map((_, i) => i).sort((a, b) => logits[b]! - logits[a]! || a - b);
  return { scores: order.map((i) => ({ label: labels[i]!, probability: powers[i]! / sum })) };
}
