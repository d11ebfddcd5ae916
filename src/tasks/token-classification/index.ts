// Token classification: a tag for each word of a text, by cross-entropy at its first token. Transformers' ForTokenClassification and run_ner.py.
import { z } from "zod";
import type { ColumnNames, Fields, RecordFormat, RecordFormats } from "../../data/records.ts";
import { type Example, IGNORE } from "../../data/types.ts";
import type { Graph } from "../../graph/graph.ts";
import { gatherRows } from "../../graph/ops/indexing.ts";
import { input } from "../../graph/ops/leaves.ts";
import { crossEntropy } from "../../graph/ops/loss.ts";
import { type ModelConfig, modelOutputs } from "../../models/registry.ts";
import { option } from "../../options.ts";
import { int32, type Tensor } from "../../tensor.ts";
import { encodeWords } from "../../text/pairs.ts";
import { type RecordKind, type RecordParts, recordData } from "../common/record-data.ts";
import type { Task } from "../task.ts";
import { type TagScore, tagMeasure, tagScores } from "./measures.ts";
import { readTags, splitWords } from "./predict.ts";
import { type TaggedText, tagPreview } from "./preview.ts";

/** A list of tokens or tags as JSON or Parquet has it, each a text; tags can be numbers. */
function listIn({ value, wrong }: Fields, key: string, expected: string, read: (item: unknown) => string | undefined): string[] {
  const list = value(key);
  if (!Array.isArray(list)) throw wrong(key, expected);
  return list.map((item: unknown) => read(item) ?? refuse(wrong(key, expected)));
}

const refuse = (error: Error): never => {
  throw error;
};

const isTag = (tag: unknown): boolean => (typeof tag === "string" && tag.trim() !== "") || Number.isSafeInteger(tag);

const format = (tokens: string, tags: string): RecordFormat<TaggedText> => ({
  name: "words and tags",
  keys: [tokens, tags],
  optional: [],
  make(row) {
    const words = listIn(row, tokens, "a list of words", (word) => (typeof word === "string" ? word : undefined));
    const own = listIn(row, tags, "a list of names or numbers of tags", (tag) => (isTag(tag) ? String(tag).trim() : undefined));
    if (own.length !== words.length)
      throw row.wrong(tags, `as many tags as ${tokens} has words: ${words.length}, not ${own.length}`);
    return { tokens: words, tags: own };
  },
});

const formats = ({ tokensColumn = "tokens", tagsColumn }: ColumnNames): RecordFormats<TaggedText> => ({
  candidates: (tagsColumn === undefined ? ["ner_tags", "tags", "labels"] : [tagsColumn]).map((tags) =>
    format(tokensColumn, tags),
  ),
  naming: "--tokens-column and --tags-column",
  pair: ["--tokens-column", "--tags-column"],
});

const records: RecordKind<TaggedText> = {
  formats,
  answers: ["tags"],
  hasClasses: true,
  async example({ tokens, tags }, where, { tokenizer, maxLength, classes }) {
    const { ids, firsts, cut } = encodeWords(tokenizer!, tokens, maxLength);
    const own = new Array<number>(ids.length).fill(-1);
    for (const [word, first] of firsts.entries()) {
      const number = classes!.numberOf(tags[word]!, where); // also of a word that is cut off
      if (first >= 0) own[first] = number;
    }
    const targets = firsts.filter((first) => first >= 0).length;
    return { whole: { ids, labels: new Int32Array(ids.length).fill(IGNORE), classes: own, targets }, isCut: cut };
  },
  feeds: tagFeeds,
};

/** The places of words' first tokens in [rows, width], flat and ascending, as `lossRows`, and their classes as `labels`: int32 [targets]. */
function tagFeeds(rows: readonly Example[], { classes }: RecordParts): Record<string, Tensor> {
  const width = rows.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const [places, labels]: [number[], number[]] = [[], []];
  for (const [row, { classes: own = [] }] of rows.entries()) {
    for (const [i, number] of own.entries()) {
      if (number < 0) continue;
      places.push(row * width + i);
      labels.push(classes!.placeOf(number));
    }
  }
  return { lossRows: int32([places.length], places), labels: int32([labels.length], labels) };
}

/** Σ -log softmax(logits)[label] over the words, whose logits [targets, labels] are beside it. */
function loss(config: ModelConfig): Graph {
  const [lossRows, labels] = ["lossRows", "labels"].map((name) => input(name, "int32", ["targets"]));
  const logits = gatherRows(modelOutputs(config)["logits"]!, lossRows!);
  return { outputs: { loss: crossEntropy(logits, labels!), logits } };
}

const options = {
  tokensColumn: option(z.string().optional(), { value: "NAME", help: "token classifiers: the column of word lists" }),
  tagsColumn: option(z.string().optional(), { value: "NAME", help: "token classifiers: the column of tag lists" }),
};

export const tokenClassification: Task<TagScore> & { classes: true; options: typeof options } = {
  what: "token classification",
  head: "token-classifier",
  classes: true,
  peft: { taskType: "TOKEN_CLS" },
  columns: ["tokensColumn", "tagsColumn"],
  takes: [],
  options,
  unit: "examples",
  evalBatchSize: 32,
  data: (base, given, host) => recordData(records, base, given, host),
  loss,
  measure: tagMeasure,
  figures: ({ f1, accuracy }) => ({ f1, accuracy }),
  scores: tagScores,
  preview: tagPreview,
  prediction: { classify: { reads: "text", encode: splitWords, read: readTags } },
};
