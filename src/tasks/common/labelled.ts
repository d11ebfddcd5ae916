// Records of a text, a pair of texts or an image with a label, in the usual formats of data sets.
import { addImage } from "../../data/images.ts";
import type { Fields } from "../../data/records.ts";
import type { Example } from "../../data/types.ts";
import { encodeTexts, fieldsFormat, noTokens, type RecordKind, type RecordParts, readPath, readText } from "./record-data.ts";

/** What is learnt of a text or an image, a class or a number. */
export interface Label<L> extends Pick<RecordKind<object>, "feeds" | "hasClasses"> {
  /** Several of them, as in "texts and classes". */
  name: string;
  read(row: Fields, key: string): L;
  /** The usual names of its column. */
  keys: readonly string[];
  /** Images can lie in a folder for each. */
  hasFolders?: true;
  /** What an example has of it. */
  learnt(label: L, where: string, parts: RecordParts): Pick<Example, "classes" | "value">;
}

/** Whether it is the name or the number of a class. */
export const isClassName = (name: unknown): boolean =>
  (typeof name === "string" && name.trim() !== "") || Number.isSafeInteger(name);

interface LabelledText<L> {
  text: string;
  textPair?: string;
  label: L;
}

/** Keys of a text, or of two, in the usual data sets. */
const usualTexts: readonly [text: string, textPair?: string][] = [
  ["text"],
  ["sentence"],
  ["text", "text_pair"],
  ["sentence1", "sentence2"],
  ["question1", "question2"],
  ["premise", "hypothesis"],
  ["question", "sentence"],
];

export function labelledTexts<L>({ name, read, keys, learnt, feeds, hasClasses }: Label<L>): RecordKind<LabelledText<L>> {
  const format = (label: string, text: string, textPair?: string) =>
    fieldsFormat<LabelledText<L>>(
      `${textPair === undefined ? "texts" : "pairs of texts"} and ${name}`,
      { text, textPair, label },
      { text: readText, textPair: readText, label: read },
    );
  return {
    formats: ({ textColumn, textPairColumn, labelColumn }) => ({
      candidates:
        (textColumn ?? textPairColumn ?? labelColumn) === undefined
          ? keys.flatMap((label) => usualTexts.map((texts) => format(label, ...texts)))
          : [format(labelColumn ?? keys[0]!, textColumn ?? "text", textPairColumn)],
      naming: "--text-column, --text-pair-column for a second text, and --label-column",
      pair: ["--text-column", "--label-column"],
    }),
    answers: ["label"],
    hasClasses,
    async example({ text, textPair = null, label }, where, parts) {
      const { whole, isCut } = encodeTexts(text, textPair, parts);
      return { whole: { ...whole, ...learnt(label, where, parts) }, isCut };
    },
    feeds,
  };
}

interface LabelledImage<L> {
  /** The path of a file. */
  image: string;
  label: L;
}

/** A folder is read for its metadata.jsonl, or for a folder for each label. */
export function labelledImages<L>({ name, read, hasFolders, learnt, feeds, hasClasses }: Label<L>): RecordKind<LabelledImage<L>> {
  const format = (image: string, label: string) =>
    fieldsFormat<LabelledImage<L>>(`images and ${name}`, { image, label }, { image: readPath, label: read });
  return {
    formats: ({ imageColumn, labelColumn }) => ({
      candidates:
        (imageColumn ?? labelColumn) === undefined
          ? ["image", "img", "file_name"].map((image) => format(image, "label"))
          : [format(imageColumn ?? "image", labelColumn ?? "label")],
      naming: "--image-column and --label-column",
      pair: ["--image-column", "--label-column"],
      folder: hasFolders ? "classes" : "metadata",
    }),
    answers: ["label"],
    hasClasses,
    async example({ image, label }, where, parts) {
      const own = learnt(label, where, parts); // before an image is awaited: in the order of the records
      return { whole: { ...noTokens, targets: 1, images: [await addImage(parts.images!, image)], ...own } };
    },
    feeds,
  };
}
