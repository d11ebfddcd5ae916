// Image classification: a class for an image, by cross-entropy. Transformers' ForImageClassification.
import { type ClassifierScore, classLabel, classTask, exclusiveScores } from "../common/classification.ts";
import { labelledImages } from "../common/labelled.ts";
import { recordData, recordTask } from "../common/record-data.ts";
import type { Task } from "../task.ts";

export const imageClassification: Task<ClassifierScore> & { classes: true } = {
  ...recordTask,
  ...classTask,
  what: "image classification",
  head: "image-classifier",
  pipeline: "image-classification",
  peft: { taskType: null, modulesToSave: ["classifier"] },
  columns: ["imageColumn", "labelColumn"],
  data: recordData(labelledImages(classLabel)),
  prediction: { classify: { reads: "image", read: exclusiveScores } },
};
