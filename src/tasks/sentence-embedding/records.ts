// Pairs of texts that mean the same, with texts that do not, or with a number that says how near they are, as data sets write them.
import type { ColumnNames, Fields, RecordFormats } from "../../data/records.ts";
import type { Example } from "../../data/types.ts";
import { float32, floatVector, intVector } from "../../tensor.ts";
import { encodeTexts, fieldsFormat, joinTexts, type RecordKind, textsInTurn } from "../common/record-data.ts";
import { readNumber } from "../common/regression.ts";

export interface TextPair {
  anchor: string;
  positive: string;
  /** Texts that the anchor is not to be near. */
  negatives?: string[];
  /** How similar both are. */
  score?: number;
}

/** The keys of anchors and positives. */
const usual = [
  ["anchor", "positive"],
  ["query", "positive"],
  ["query", "answer"],
  ["query", "document"],
  ["question", "answer"],
  ["sentence1", "sentence2"],
] as const;

const filled = (row: Fields, key: string): string => {
  const text = row.text(key);
  if (text.trim() === "") throw row.wrong(key, "a text that is not empty");
  return text;
};

/** A text, or a list of them. */
function negativesOf(row: Fields, key: string): string[] {
  const given = row.value(key);
  if (!Array.isArray(given)) return [filled(row, key)];
  const isText = (one: unknown): one is string => typeof one === "string" && one.trim() !== "";
  if (given.length > 0 && given.every(isText)) return given;
  throw row.wrong(key, "a text, or a list of texts");
}

const readers = { anchor: filled, positive: filled, negatives: negativesOf, score: readNumber };

function formats({ anchorColumn, positiveColumn, negativeColumn, scoreColumn }: ColumnNames): RecordFormats<TextPair> {
  const isNamed = (anchorColumn ?? positiveColumn) !== undefined;
  const pairs = isNamed ? [[anchorColumn ?? "anchor", positiveColumn ?? "positive"] as const] : usual;
  const candidates = pairs.flatMap(([anchor, positive]) => {
    const alone = fieldsFormat<TextPair>("pairs of texts", { anchor, positive }, readers);
    const against = (negatives: string) =>
      fieldsFormat<TextPair>("pairs of texts with negatives", { anchor, positive, negatives }, readers);
    const scored = (score: string) => fieldsFormat<TextPair>("pairs of texts with scores", { anchor, positive, score }, readers);
    if (scoreColumn !== undefined) return [scored(scoreColumn)];
    if (negativeColumn !== undefined) return [against(negativeColumn)];
    return [alone, against("negative"), ...(anchor === "sentence1" ? [scored("score")] : [])];
  });
  return {
    candidates,
    naming: "--anchor-column and --positive-column, with --negative-column or --score-column",
    pair: ["--anchor-column", "--positive-column"],
  };
}

export const textPairs: RecordKind<TextPair> = {
  formats,
  answers: ["score"],
  textRows: true,
  async example({ anchor, positive, negatives = [], score }, _, parts) {
    const texts = [anchor, positive, ...negatives].map((text) => encodeTexts(text, null, parts));
    const whole: Example = {
      ...joinTexts(texts.map((text) => text.whole)),
      targets: 1,
      ...(score !== undefined && { value: score }),
    };
    return { whole, isCut: texts.some(({ isCut }) => isCut) };
  },
  lengths: (examples, texts) => ({ candidates: texts - examples }),
  /** The rows of the anchors, and of what each is compared with: its own positive at the same place, then the negatives. */
  feeds(rows) {
    const order = [...textsInTurn(rows).keys()];
    const [anchors, candidates] = [order.slice(0, rows.length), order.slice(rows.length)];
    const isScored = rows.every(({ value }) => value !== undefined);
    return {
      anchorRows: intVector(anchors),
      candidateRows: intVector(candidates),
      similarities: floatVector(rows.map(({ value = 0 }) => value)),
      isScored: float32([], Float32Array.of(Number(isScored))),
    };
  },
};
