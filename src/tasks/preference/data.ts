// Pairs of answers to examples and batches: both answers behind the prompt, tokenized as by TRL's DPOTrainer 1.16.
import { makeBatch } from "../../data/batch.ts";
import { type Collator, evaluationBatches, examplesName, sizeOfRows } from "../../data/collate.ts";
import { controlTokensOf } from "../../data/control-text.ts";
import { fieldsKey } from "../../data/duplicates.ts";
import { encode, type MadeExample, noTemplate, withEos, withPlace } from "../../data/examples.ts";
import { promptFormatOf } from "../../data/prompts.ts";
import { type RecordFile, readFormats } from "../../data/readers.ts";
import type { DataRecord, NumberedRecord } from "../../data/records.ts";
import type { Examples } from "../../data/store.ts";
import { type Batch, type Example, IGNORE, textKey } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import type { TextBase } from "../../models/base.ts";
import type { Platform } from "../../platform/platform.ts";
import { floatVector, intVector, type Tensor } from "../../tensor.ts";
import { imagePartsOf } from "../../text/parts.ts";
import { limitedRendering, renderChat } from "../../text/template.ts";
import { specialPrefix, type Tokenizer } from "../../text/tokenizer.ts";
import { commonPrefix } from "../../text/turns.ts";
import { joinTexts, paddingOf } from "../common/record-data.ts";
import { checkVocabulary, lengthLimit, withCheckedTemplate } from "../common/tokenizer-checks.ts";
import type { DataOptions, Start, TaskData } from "../task.ts";
import { type ConversationPreference, isConversation, type Preference, preferences, type TextPreference } from "./records.ts";

/** Fails if the tokenizer has ids that the base has no embedding for, or its positions do not suffice. */
export async function preferenceData(
  base: TextBase,
  options: DataOptions,
  { files }: Pick<Platform, "files">,
): Promise<TaskData> {
  const { config } = base;
  const tokenizer = await base.tokenizer();
  checkVocabulary(tokenizer, base);
  const maxLength = lengthLimit(options.maxLength, config);
  const now = options.date === undefined ? undefined : new Date(options.date);
  const padId = paddingOf(config, tokenizer);
  return {
    maxLength,
    limit: Math.max(config.vocabSize, 2 * maxLength + 1),
    open(path) {
      const file = readFormats(files, path, preferences(options));
      const make = (records: AsyncIterable<NumberedRecord>) =>
        eachPair(records as typeof file, file.where, tokenizer, maxLength, now);
      return { file, records: file, make, isNumbering: false };
    },
    controlTokens: controlTokensOf(tokenizer),
    collate: (examples) => collatePairs(examples, padId),
    sampled: (example) => answersOf(example)[0],
    prompts() {
      const { add, format } = promptFormatOf();
      return { add: (record) => add(asked(record as object as Preference)), format };
    },
  };
}

/** The pair as what a model is asked: a conversation, or a prompt with its answer. */
const asked = (record: Preference): DataRecord =>
  isConversation(record) ? { messages: record.prompt } : { prompt: record.prompt, completion: record.chosen };

async function* eachPair(
  records: AsyncIterable<NumberedRecord<Preference>>,
  whereIs: RecordFile<Preference>["where"],
  tokenizer: Tokenizer,
  maxLength: number,
  now: Date | undefined,
): AsyncGenerator<MadeExample<Preference>, void, void> {
  for await (const { record, place } of withCheckedTemplate(records, tokenizer, isConversation)) {
    try {
      const texts = tokenizer.limited(() => encodePreference(record, tokenizer, now));
      const isCut = Math.max(texts.chosen.length, texts.rejected.length) > maxLength;
      yield { record, place, key: keyOf(record), whole: pairExample(texts, maxLength), isCut };
    } catch (error) {
      throw withPlace(error, whereIs(place));
    }
  }
}

/** Pairs of the same prompt and answers ask the same, whichever answer is the chosen one. */
function keyOf({ prompt, chosen, rejected }: Preference) {
  const answers = [chosen, rejected].map((answer) => JSON.stringify(answer)).sort();
  return fieldsKey({ prompt, answers, chosen, rejected }, ["chosen", "rejected"]);
}

/** The ids of a prompt with each of its answers, and how many of them are the prompt's. */
export interface EncodedPreference {
  prompt: number;
  chosen: Int32Array;
  rejected: Int32Array;
}

/**
 * Prompt and answer are tokenized as one text: strings with the tokenizer's special tokens in front and EOS behind, conversations as
 * the chat template renders them. An answer begins where the tokens differ from those of the prompt alone, in one of both.
 */
export function encodePreference(record: Preference, tokenizer: Tokenizer, now?: Date): EncodedPreference {
  const [prompt, chosen, rejected] = isConversation(record)
    ? encodeConversations(record, tokenizer, now)
    : encodeTexts(record, tokenizer);
  return {
    prompt: Math.min(commonPrefix(prompt, chosen), commonPrefix(prompt, rejected)),
    chosen: Int32Array.from(chosen),
    rejected: Int32Array.from(rejected),
  };
}

type Ids = readonly number[];

function encodeTexts({ prompt, chosen, rejected }: TextPreference, tokenizer: Tokenizer): [Ids, Ids, Ids] {
  const ids = (text: string): number[] => [...specialPrefix(tokenizer), ...encode(tokenizer, text)];
  return [ids(prompt), withEos(ids(prompt + chosen), tokenizer), withEos(ids(prompt + rejected), tokenizer)];
}

function encodeConversations(
  { prompt, chosen, rejected }: ConversationPreference,
  tokenizer: Tokenizer,
  now: Date | undefined,
): [Ids, Ids, Ids] {
  const { template } = tokenizer;
  if (!template) throw noTemplate("conversations", "{prompt, chosen, rejected} with strings");
  if (imagePartsOf([...prompt, ...chosen, ...rejected]).length > 0) throw noImages();
  const ids = (...given: Parameters<typeof renderChat>) =>
    encode(
      tokenizer,
      limitedRendering(tokenizer, template, given[1], () => renderChat(...given)),
    );
  return [
    prompt.length === 0 ? [] : ids(template, prompt, { addGenerationPrompt: true, now }),
    ids(template, [...prompt, ...chosen], { now }),
    ids(template, [...prompt, ...rejected], { now }),
  ];
}

const noImages = (): LowrankError =>
  new LowrankError("data/images", "preferences are trained on texts alone", {
    expected: "messages without images",
    got: "an image",
    next: "Remove the record.",
  });

/** Both texts, each cut on the right, as one example: without a target where one answer has none left. */
export function pairExample({ prompt, chosen, rejected }: EncodedPreference, maxLength: number): Example {
  const texts = [chosen, rejected].map((all) => {
    const ids = all.subarray(0, maxLength);
    return { ids, labels: ids.map((id, i) => (i >= Math.max(prompt, 1) ? id : IGNORE)) };
  });
  const shorter = Math.min(...texts.map(({ ids }) => ids.length));
  return { ...joinTexts(texts), ...(shorter <= Math.max(prompt, 1) && { targets: 0 }) };
}

/** The texts of a pair: with the chosen answer, and with the rejected one. */
export function answersOf({ ids, labels, starts: [border = 0] = [] }: Example): [Example, Example] {
  const part = (from: number, to: number): Example => ({ ids: ids.slice(from, to), labels: labels.slice(from, to) });
  return [part(0, border), part(border, ids.length)];
}

/** Pairs in order. The rows of a batch are the texts with the chosen answers, then those with the rejected ones. */
function collatePairs(examples: Examples, padId: number): Collator {
  const lengths = Int32Array.from({ length: examples.length }, (_, i) => examples.longestOf(i));
  return {
    examples,
    lengths,
    identity: { padId },
    name: () => examplesName(examples),
    size: (indices) => ({
      ...sizeOfRows(lengths, indices),
      rows: 2 * indices.length,
      targets: indices.reduce((sum, i) => sum + examples.targetsOf(i), 0),
    }),
    async batch(indices) {
      const pairs = (await examples.read(indices)).map(answersOf);
      const texts = [...pairs.map(([chosen]) => chosen), ...pairs.map(([, rejected]) => rejected)];
      const { rows, feeds, tokens } = makeBatch(texts, { padId });
      const rowKeys = [0, 1].flatMap((nth) => indices.map((index) => textKey(index, nth)));
      const own = pairFeeds(pairs.length, rows.width, feeds["lossRows"]!);
      return { feeds: { ...feeds, ...own }, targets: pairs.length, tokens, rowKeys };
    },
  };
}

/** What the loss reads of pairs, chosen texts first, whose targets are predicted at `lossRows`; no reference yet. */
export function pairFeeds(pairs: number, width: number, lossRows: Tensor): Record<string, Tensor> {
  const rows = Array.from({ length: 2 * pairs }, (_, row) => row);
  return {
    lossTexts: intVector(Array.from(lossRows.data as Int32Array, (place) => Math.floor(place / width))),
    otherAnswer: intVector(rows.map((row) => (row + pairs) % rows.length)),
    side: floatVector(rows.map((row) => (row < pairs ? 1 : -1))),
    referenceLogps: floatVector(rows.map(() => 0)),
  };
}

/** The batch with the log-probabilities of its texts by the reference, in the order of its rows. */
export const withReference = ({ feeds, ...batch }: Batch, logps: Float32Array): Batch => ({
  ...batch,
  feeds: { ...feeds, referenceLogps: floatVector(logps) },
});

/** Batches with the reference's log-probabilities, which are computed here, once: two numbers a pair. */
export async function prepareReference(pairs: Collator, { run, batchSize, passTokens }: Start): Promise<Collator> {
  const count = pairs.lengths.length;
  const reference = new Float32Array(2 * count); // of the chosen answers, then of the rejected ones
  const batches = evaluationBatches(pairs, batchSize, passTokens);
  let number = 0;
  for await (const { logps } of run(batches)) {
    const rows = batches.rows[number++]!;
    for (const [i, row] of rows.entries()) {
      reference[row] = Number(logps!.data[i]);
      reference[count + row] = Number(logps!.data[rows.length + i]);
    }
  }
  return {
    ...pairs,
    async batch(rows) {
      const both = [...rows, ...rows.map((row) => count + row)];
      return withReference(
        await pairs.batch(rows),
        Float32Array.from(both, (i) => reference[i]!),
      );
    },
  };
}
