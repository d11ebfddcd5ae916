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
import { intVector, type Tensor } from "../../tensor.ts";
import { encodeWords } from "../../text/pairs.ts";
import { isClassName } from "../common/labelled.ts";
import { type RecordKind, type RecordParts, recordData, recordTask } from "../common/record-data.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { PreviewContext, Previewing, Task } from "../task.ts";
import { readTags, splitWords } from "./entities.ts";
import { type TagScore, tagMeasure, tagScores } from "./measures.ts";

/** A text in words, and the tag of each, by name or number. */
interface TaggedText {
  tokens: string[];
  tags: string[];
}

/** A list as JSON or Parquet has it, of items that can be in it. */
function listIn({ value, wrong }: Fields, key: string, expected: string, isItem: (item: unknown) => boolean): string[] {
  const list = value(key);
  if (!Array.isArray(list) || !list.every(isItem)) throw wrong(key, expected);
  return list.map(String);
}

const format = (tokens: string, tags: string): RecordFormat<TaggedText> => ({
  name: "words and tags",
  keys: [tokens, tags],
  optional: [],
  make(row) {
    const words = listIn(row, tokens, "a list of words", (word) => typeof word === "string");
    const own = listIn(row, tags, "a list of names or numbers of tags", isClassName);
    if (own.length !== words.length)
      throw row.wrong(tags, `as many tags as ${tokens} has words: ${words.length}, not ${own.length}`);
    return { tokens: words, tags: own.map((tag) => tag.trim()) };
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
  return { lossRows: intVector(places), labels: intVector(labels) };
}

/** Σ -log softmax(logits)[label] over the words, whose logits [targets, labels] are beside it. */
function loss(config: ModelConfig): Graph {
  const [lossRows, labels] = ["lossRows", "labels"].map((name) => input(name, "int32", ["targets"]));
  const logits = gatherRows(modelOutputs(config)["logits"]!, lossRows!);
  return { outputs: { loss: crossEntropy(logits, labels!), logits } };
}

/** Words with their tags, and how many words have each. */
async function tagPreview(context: PreviewContext): Promise<Previewing> {
  const { base, data } = context;
  const preview = await recordPreview(context);
  const tokenizer = await base.tokenizer();
  const classes = data.classes!;
  return {
    ...preview,
    stats(source) {
      const stats = preview.stats(source);
      return {
        ...stats,
        total(file) {
          const total = stats.total(file);
          return { ...total, words: total.classes!.reduce((sum, { count }) => sum + count, 0) };
        },
      };
    },
    async show(made) {
      const { tokens, tags } = made.record as TaggedText;
      const { firsts } = encodeWords(tokenizer, tokens, data.maxLength);
      const label = (tag: string) => classes.labels()[classes.placeOf(classes.numberOf(tag, made.place))]!;
      const words = tokens.map((text, i) => ({ text, label: label(tags[i]!) })).filter((_, i) => firsts[i]! >= 0);
      return { ...(await preview.show(made)), words };
    },
  };
}

const options = {
  tokensColumn: option(z.string().optional(), { value: "NAME", help: "token classifiers: the column of word lists" }),
  tagsColumn: option(z.string().optional(), { value: "NAME", help: "token classifiers: the column of tag lists" }),
};

export const tokenClassification: Task<TagScore> & { classes: true; options: typeof options } = {
  ...recordTask,
  what: "token classification",
  head: "token-classifier",
  pipeline: "token-classification",
  classes: true,
  peft: { taskType: "TOKEN_CLS" },
  columns: ["tokensColumn", "tagsColumn"],
  options,
  data: recordData(records),
  loss,
  measure: tagMeasure,
  figures: ({ f1, accuracy }) => ({ f1, accuracy }),
  scores: tagScores,
  preview: tagPreview,
  prediction: { classify: { reads: "text", encode: splitWords, read: readTags } },
};
