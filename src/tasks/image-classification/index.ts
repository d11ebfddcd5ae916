// Image classification: a class for an image, by cross-entropy. Transformers' ForImageClassification.
import { addImage } from "../../data/images.ts";
import type { RecordFormat } from "../../data/records.ts";
import {
  type ClassifierScore,
  classificationScores,
  classifierMeasure,
  classLoss,
  exclusiveScores,
} from "../common/classification.ts";
import { classFeeds, noTokens, type RecordKind, recordData } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { Task } from "../task.ts";

interface LabelledImage {
  /** The path of a file. */
  image: string;
  label: string;
}

const format = (image: string, label: string): RecordFormat<LabelledImage> => ({
  name: "images and classes",
  keys: [image, label],
  optional: [],
  make: (row) => ({ image: row.path(image), label: row.label(label) }),
});

export const labelledImages: RecordKind<LabelledImage> = {
  formats({ imageColumn, labelColumn }) {
    const isNamed = (imageColumn ?? labelColumn) !== undefined;
    const usual = [format("image", "label"), format("img", "label"), format("file_name", "label")];
    return {
      candidates: isNamed ? [format(imageColumn ?? "image", labelColumn ?? "label")] : usual,
      naming: "--image-column and --label-column",
      pair: ["--image-column", "--label-column"],
      folder: "classes",
    };
  },
  answers: ["label"],
  hasClasses: true,
  example: async ({ image, label }, where, { classes, images }) => ({
    whole: { ...noTokens, targets: 1, classes: [classes!.numberOf(label, where)], images: [await addImage(images!, image)] },
  }),
  feeds: classFeeds,
};

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
  data: (base, options, host) => recordData(labelledImages, base, options, host),
  loss: classLoss,
  measure: classifierMeasure,
  figures: ({ accuracy }) => ({ accuracy }),
  scores: classificationScores,
  preview: recordPreview,
  prediction: { classify: { reads: "image", read: exclusiveScores } },
};
