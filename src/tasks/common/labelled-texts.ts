// Records of a text or a pair of texts with what is learnt of them, in the usual formats of data sets.
import type { ColumnNames, Fields, RecordFormat, RecordFormats } from "../../data/records.ts";

export interface LabelledText<L> {
  text: string;
  textPair?: string;
  label: L;
}

/** The formats of labelled texts. `read` reads a label; `labels` are the usual names of its column. */
export function labelledTexts<L>(
  name: string,
  { textColumn, textPairColumn, labelColumn }: ColumnNames,
  read: (row: Fields, key: string) => L,
  labels: readonly string[] = ["label"],
): RecordFormats<LabelledText<L>> {
  const one = (text: string, key: string): RecordFormat<LabelledText<L>> => ({
    name: `texts and ${name}`,
    keys: [text, key],
    optional: [],
    make: (row) => ({ text: row.text(text), label: read(row, key) }),
  });
  const pair = (text: string, textPair: string, key: string): RecordFormat<LabelledText<L>> => ({
    name: `pairs of texts and ${name}`,
    keys: [text, textPair, key],
    optional: [],
    make: (row) => ({ text: row.text(text), textPair: row.text(textPair), label: read(row, key) }),
  });
  const [text, key] = [textColumn ?? "text", labelColumn ?? labels[0]!];
  const isNamed = (textColumn ?? textPairColumn ?? labelColumn) !== undefined;
  const named = textPairColumn === undefined ? one(text, key) : pair(text, textPairColumn, key);
  const usual = labels.flatMap((label) => [
    one("text", label),
    one("sentence", label),
    pair("text", "text_pair", label),
    pair("sentence1", "sentence2", label),
    pair("question1", "question2", label),
    pair("premise", "hypothesis", label),
    pair("question", "sentence", label),
  ]);
  return {
    candidates: isNamed ? [named] : usual,
    naming: "--text-column, --text-pair-column for a second text, and --label-column",
    pair: ["--text-column", "--label-column"],
  };
}
