// Sequence classification: a class for a text or a pair of texts, by cross-entropy. Transformers' ForSequenceClassification.
import {
  type ClassifierScore,
  classificationScores,
  classifierMeasure,
  classLoss,
  exclusiveScores,
  textClassifier,
} from "../common/classification.ts";
import { type LabelledText, labelledTexts } from "../common/labelled-texts.ts";
import { classFeeds, encodeTexts, type RecordKind, recordData } from "../common/record-data.ts";
import type { Task } from "../task.ts";

const records: RecordKind<LabelledText<string>> = {
  formats: (columns) => labelledTexts("classes", columns, (row, key) => row.label(key)),
  answers: ["label"],
  hasClasses: true,
  async example({ text, textPair, label }, where, parts) {
    const { whole, isCut } = encodeTexts(text, textPair ?? null, parts);
    return { whole: { ...whole, classes: [parts.classes!.numberOf(label, where)] }, isCut };
  },
  feeds: classFeeds,
};

export const sequenceClassification: Task<ClassifierScore> & { classes: true } = {
  ...textClassifier,
  what: "sequence classification",
  problemType: "single_label_classification",
  classes: true,
  data: (base, options, host) => recordData(records, base, options, host),
  loss: classLoss,
  measure: classifierMeasure,
  figures: ({ accuracy }) => ({ accuracy }),
  scores: classificationScores,
  prediction: { classify: { reads: "text", read: exclusiveScores } },
};
