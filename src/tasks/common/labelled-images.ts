// Records of an image and its class, in the usual formats of data sets, and a folder for each class.
import { addImage } from "../../data/images.ts";
import type { RecordFormat } from "../../data/records.ts";
import { classFeeds, noTokens, type RecordKind } from "./record-data.ts";

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
