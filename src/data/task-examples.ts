// Records of other tasks than language modelling to examples: tokens, prepared images, classes. One function a task.
import { LowrankError } from "../errors.ts";
import { encodePair } from "../text/pairs.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Classes } from "./classes.ts";
import { type MadeExample, withPlace } from "./examples.ts";
import { addImage, type ImageStore } from "./images.ts";
import type { RecordFile } from "./readers.ts";
import type { NumberedRecord } from "./records.ts";
import type { TaskRecords } from "./task-records.ts";
import type { Example } from "./types.ts";

/** What examples are made with, where the task has it. */
export interface ExampleParts {
  /** Longest text, in tokens. */
  maxLength: number;
  tokenizer?: Tokenizer;
  classes?: Classes;
  images?: ImageStore;
}

/** An example, and whether its text was cut. */
type Made = Pick<MadeExample, "whole" | "isCut">;

const noTokens = { ids: new Int32Array(), labels: new Int32Array() };

const makers: { [T in keyof TaskRecords]: (record: TaskRecords[T], where: string, parts: ExampleParts) => Promise<Made> } = {
  "sequence-classification": async ({ text, textPair, label }, where, parts) => {
    const { whole, isCut } = encoded(text, textPair ?? null, parts);
    return { whole: { ...whole, answer: parts.classes!.numberOf(label, where) }, isCut };
  },
  "image-classification": async ({ image, label }, where, parts) => ({
    whole: { ...noTokens, answer: parts.classes!.numberOf(label, where), images: [await addImage(parts.images!, image)] },
  }),
  contrastive: async ({ image, text }, _, parts) => {
    const { whole, isCut } = encoded(text, null, parts);
    return { whole: { ...whole, images: [await addImage(parts.images!, image)], answer: 0 }, isCut };
  },
};

function encoded(text: string, second: string | null, { tokenizer, maxLength }: ExampleParts): Required<Made> {
  const pair = encodePair(tokenizer!, text, second, maxLength);
  const whole: Example = { ids: pair.ids, labels: noTokens.labels };
  return { whole: pair.second < pair.ids.length ? { ...whole, second: pair.second } : whole, isCut: pair.cut };
}

/** Records of images that are prepared ahead of the one that is waited for: the decoder works on several. */
const IMAGES_AHEAD = 16;

/** The example of each record. What goes wrong names the record's place. */
export async function* eachTaskExample<T extends keyof TaskRecords>(
  task: T,
  records: RecordFile<TaskRecords[T]>,
  parts: ExampleParts,
): AsyncGenerator<MadeExample<TaskRecords[T]>, void, void> {
  const ahead = parts.images ? IMAGES_AHEAD : 1;
  type Begun = NumberedRecord<TaskRecords[T]> & { made: Promise<Made> };
  const begun: Begun[] = [];
  const next = async () => {
    const { record, place, made } = begun.shift()!;
    return { record, place, ...(await made) };
  };
  const make = async (record: TaskRecords[T], where: string): Promise<Made> => {
    try {
      return await makers[task](record, where, parts);
    } catch (error) {
      // An unknown class names its place already.
      throw error instanceof LowrankError && error.code === "data/label" ? error : withPlace(error, where);
    }
  };
  try {
    for await (const { record, place } of records) {
      const made = make(record, records.where(place));
      // It is told when its turn comes.
      made.catch(() => {});
      begun.push({ record, place, made });
      if (begun.length === ahead) yield await next();
    }
  } catch (error) {
    // What is wrong with an earlier record is told first.
    while (begun.length > 0) yield await next();
    throw error;
  }
  while (begun.length > 0) yield await next();
}
