// Sequence classification: a class for a text or a pair of texts, by cross-entropy. Transformers' ForSequenceClassification.
import { type ClassifierScore, classLabel, classTask, exclusiveScores, textClassifier } from "../common/classification.ts";
import { labelledTexts } from "../common/labelled.ts";
import { recordData } from "../common/record-data.ts";
import type { Task } from "../task.ts";

export const sequenceClassification: Task<ClassifierScore> & { classes: true } = {
  ...textClassifier,
  ...classTask,
  what: "sequence classification",
  data: recordData(labelledTexts(classLabel)),
  prediction: { classify: { reads: "text", read: exclusiveScores } },
};
