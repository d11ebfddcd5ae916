// Records of an image with what is learnt of it, in the usual formats of data sets.
import { addImage } from "../../data/images.ts";
import type { ColumnNames, Fields, RecordFormat, RecordFormats } from "../../data/records.ts";
import type { Example } from "../../data/types.ts";
import { classFeeds, noTokens, type RecordKind, type RecordParts } from "./record-data.ts";

export interface LabelledImage<L> {
  /** The path of a file. */
  image: string;
  label: L;
}

/** The formats of labelled images. `read` reads a label; a folder is read for its metadata.jsonl, or for a folder for each class. */
export function labelledImages<L>(
  name: string,
  { imageColumn, labelColumn }: ColumnNames,
  read: (row: Fields, key: string) => L,
  folder: "metadata" | "classes" = "metadata",
): RecordFormats<LabelledImage<L>> {
  const format = (image: string, label: string): RecordFormat<LabelledImage<L>> => ({
    name: `images and ${name}`,
    keys: [image, label],
    optional: [],
    make: (row) => ({ image: row.path(image), label: read(row, label) }),
  });
  const isNamed = (imageColumn ?? labelColumn) !== undefined;
  const usual = [format("image", "label"), format("img", "label"), format("file_name", "label")];
  return {
    candidates: isNamed ? [format(imageColumn ?? "image", labelColumn ?? "label")] : usual,
    naming: "--image-column and --label-column",
    pair: ["--image-column", "--label-column"],
    folder,
  };
}

/** An image, prepared as the base reads it: an example that counts as one. */
export const encodeImage = async (image: string, { images }: RecordParts): Promise<Example> => ({
  ...noTokens,
  targets: 1,
  images: [await addImage(images!, image)],
});

/** Images with a class each. */
export const classifiedImages: RecordKind<LabelledImage<string>> = {
  formats: (columns) => labelledImages("classes", columns, (row, key) => row.label(key), "classes"),
  answers: ["label"],
  hasClasses: true,
  async example({ image, label }, where, parts) {
    const number = parts.classes!.numberOf(label, where); // before an image is awaited: in the order of the records
    return { whole: { ...(await encodeImage(image, parts)), classes: [number] } };
  },
  feeds: classFeeds,
};
