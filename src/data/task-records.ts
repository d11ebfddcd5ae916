// The records of other tasks than language modelling, and the spellings that data sets write them in: one table a task.
import { LowrankError } from "../errors.ts";
import type { ColumnNames, DataRecord, Spelling, Spellings } from "./records.ts";

export interface LabeledText {
  text: string;
  textPair?: string;
  label: string;
}
export interface LabeledImage {
  /** The path of a file. */
  image: string;
  label: string;
}
export interface ImageText {
  /** Likewise the path of a file. */
  image: string;
  text: string;
}

/** What each task learns from. */
export interface TaskRecords {
  "sequence-classification": LabeledText;
  "image-classification": LabeledImage;
  contrastive: ImageText;
}
export type AnyRecord = DataRecord | TaskRecords[keyof TaskRecords];

/** Whether it is a language model's. */
export const isLanguage = (record: AnyRecord): record is DataRecord => !("label" in record || "image" in record);

const labeledText = (text: string, label: string): Spelling<LabeledText> => ({
  name: "texts and classes",
  keys: [text, label],
  optional: [],
  make: (row) => ({ text: row.text(text), label: row.label(label) }),
});

const labeledPair = (text: string, textPair: string, label: string): Spelling<LabeledText> => ({
  name: "pairs of texts and classes",
  keys: [text, textPair, label],
  optional: [],
  make: (row) => ({ text: row.text(text), textPair: row.text(textPair), label: row.label(label) }),
});

const labeledImage = (image: string, label: string): Spelling<LabeledImage> => ({
  name: "images and classes",
  keys: [image, label],
  optional: [],
  make: (row) => ({ image: row.path(image), label: row.label(label) }),
});

const imageText = (image: string, text: string): Spelling<ImageText> => ({
  name: "images and texts",
  keys: [image, text],
  optional: [],
  make: (row) => ({ image: row.path(image), text: row.text(text) }),
});

type Column = keyof ColumnNames;

/** The columns that can be named for each task; of a contrastive model also those of images with classes, which it is evaluated on. */
const taskColumns: Record<keyof TaskRecords | "causal-lm", readonly Column[]> = {
  "causal-lm": ["promptColumn", "completionColumn", "textColumn"],
  "sequence-classification": ["textColumn", "textPairColumn", "labelColumn"],
  "image-classification": ["imageColumn", "labelColumn"],
  contrastive: ["imageColumn", "textColumn", "labelColumn"],
};

/** Throws `data/columns` if a column is named that the records of the task do not have: it would be left unread. */
export function checkColumns(task: keyof typeof taskColumns, columns: ColumnNames): void {
  const own = taskColumns[task];
  const foreign = [...new Set(Object.values(taskColumns).flat())].find(
    (name) => columns[name] !== undefined && !own.includes(name),
  );
  if (foreign === undefined) return;
  const isClass = task === "causal-lm" && foreign === "labelColumn";
  throw new LowrankError("data/columns", "the records that this base learns from have no such column", {
    subject: foreign,
    expected: `none but ${own.join(", ")}`,
    got: JSON.stringify(columns[foreign]),
    next: isClass
      ? "A language model learns a class as an answer: promptColumn and completionColumn. Or choose a base that classifies (bert, vit)."
      : `Leave out ${foreign}.`,
  });
}

/** The usual spellings of a task, or the columns that were named. */
export const taskSpellings: { [T in keyof TaskRecords]: (columns: ColumnNames) => Spellings<TaskRecords[T]> } = {
  "sequence-classification": ({ textColumn, textPairColumn, labelColumn }) => {
    const [text, label] = [textColumn ?? "text", labelColumn ?? "label"];
    const isNamed = (textColumn ?? textPairColumn ?? labelColumn) !== undefined;
    const named = textPairColumn === undefined ? labeledText(text, label) : labeledPair(text, textPairColumn, label);
    const usual = [
      labeledText("text", "label"),
      labeledText("sentence", "label"),
      labeledPair("text", "text_pair", "label"),
      labeledPair("sentence1", "sentence2", "label"),
      labeledPair("question1", "question2", "label"),
      labeledPair("premise", "hypothesis", "label"),
      labeledPair("question", "sentence", "label"),
    ];
    return {
      candidates: isNamed ? [named] : usual,
      naming: "--text-column, --text-pair-column for a second text, and --label-column",
      pair: ["--text-column", "--label-column"],
    };
  },
  "image-classification": ({ imageColumn, labelColumn }) => {
    const isNamed = (imageColumn ?? labelColumn) !== undefined;
    const usual = [labeledImage("image", "label"), labeledImage("img", "label"), labeledImage("file_name", "label")];
    return {
      candidates: isNamed ? [labeledImage(imageColumn ?? "image", labelColumn ?? "label")] : usual,
      naming: "--image-column and --label-column",
      pair: ["--image-column", "--label-column"],
      folder: "classes",
    };
  },
  contrastive: ({ imageColumn, textColumn }) => {
    const isNamed = (imageColumn ?? textColumn) !== undefined;
    const usual = [
      imageText("image", "text"),
      imageText("image", "caption"),
      imageText("file_name", "text"),
      imageText("file_name", "caption"),
    ];
    return {
      candidates: isNamed ? [imageText(imageColumn ?? "image", textColumn ?? "text")] : usual,
      naming: "--image-column and --text-column",
      pair: ["--image-column", "--text-column"],
      folder: "metadata",
    };
  },
};
