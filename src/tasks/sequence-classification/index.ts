// Sequence classification: a class for a text or a pair of texts, by cross-entropy. Transformers' ForSequenceClassification.
import type { ColumnNames, RecordFormat, RecordFormats } from "../../data/records.ts";
import {
  type ClassifierScore,
  classificationScores,
  classifierMeasure,
  classLoss,
  exclusiveScores,
  needsPadding,
} from "../common/classification.ts";
import { classFeeds, encodeTexts, type RecordKind, recordData } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { Task } from "../task.ts";

interface LabelledText {
  text: string;
  textPair?: string;
  label: string;
}

const one = (text: string, label: string): RecordFormat<LabelledText> => ({
  name: "texts and classes",
  keys: [text, label],
  optional: [],
  make: (row) => ({ text: row.text(text), label: row.label(label) }),
});

const pair = (text: string, textPair: string, label: string): RecordFormat<LabelledText> => ({
  name: "pairs of texts and classes",
  keys: [text, textPair, label],
  optional: [],
  make: (row) => ({ text: row.text(text), textPair: row.text(textPair), label: row.label(label) }),
});

function formats({ textColumn, textPairColumn, labelColumn }: ColumnNames): RecordFormats<LabelledText> {
  const [text, label] = [textColumn ?? "text", labelColumn ?? "label"];
  const isNamed = (textColumn ?? textPairColumn ?? labelColumn) !== undefined;
  const named = textPairColumn === undefined ? one(text, label) : pair(text, textPairColumn, label);
  const usual = [
    one("text", "label"),
    one("sentence", "label"),
    pair("text", "text_pair", "label"),
    pair("sentence1", "sentence2", "label"),
    pair("question1", "question2", "label"),
    pair("premise", "hypothesis", "label"),
    pair("question", "sentence", "label"),
  ];
  return {
    candidates: isNamed ? [named] : usual,
    naming: "--text-column, --text-pair-column for a second text, and --label-column",
    pair: ["--text-column", "--label-column"],
  };
}

export const labelledTexts: RecordKind<LabelledText> = {
  formats,
  answers: ["label"],
  hasClasses: true,
  async example({ text, textPair, label }, where, parts) {
    const { whole, isCut } = encodeTexts(text, textPair ?? null, parts);
    return { whole: { ...whole, classes: [parts.classes!.numberOf(label, where)] }, isCut };
  },
  feeds: classFeeds,
};

export const sequenceClassification: Task<ClassifierScore> & { classes: true } = {
  what: "sequence classification",
  head: "sequence-classifier",
  problemType: "single_label_classification",
  classes: true,
  peft: { taskType: "SEQ_CLS" },
  columns: ["textColumn", "textPairColumn", "labelColumn"],
  takes: [],
  unit: "examples",
  evalBatchSize: 32,
  check: needsPadding,
  data: (base, options, host) => recordData(labelledTexts, base, options, host),
  loss: classLoss,
  measure: classifierMeasure,
  figures: ({ accuracy }) => ({ accuracy }),
  scores: classificationScores,
  preview: recordPreview,
  prediction: { classify: { reads: "text", read: exclusiveScores } },
};
