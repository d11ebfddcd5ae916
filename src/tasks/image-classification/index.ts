// Image classification: a class for an image, by cross-entropy. Transformers' ForImageClassification.
import {
  type ClassifierScore,
  classificationScores,
  classifierMeasure,
  classLoss,
  exclusiveScores,
} from "../common/classification.ts";
import { classifiedImages } from "../common/labelled-images.ts";
import { recordData } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { Task } from "../task.ts";

export const imageClassification: Task<ClassifierScore> & { classes: true } = {
  what: "image classification",
  head: "image-classifier",
  problemType: "single_label_classification",
  classes: true,
  peft: { taskType: null, modulesToSave: ["classifier"] },
  columns: ["imageColumn", "labelColumn"],
  takes: [],
  unit: "examples",
  evalBatchSize: 32,
  data: (base, options, host) => recordData(classifiedImages, base, options, host),
  loss: classLoss,
  measure: classifierMeasure,
  figures: ({ accuracy }) => ({ accuracy }),
  scores: classificationScores,
  preview: recordPreview,
  prediction: { classify: { reads: "image", read: exclusiveScores } },
};
