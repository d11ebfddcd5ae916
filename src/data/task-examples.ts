// Records of other tasks than language modelling to examples: tokens, prepared images, classes. One function a task.
import { LowrankError } from "../errors.ts";
import { encodePair } from "../text/pairs.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Classes } from "./classes.ts";
import { type MadeExample, withPlace } from "./examples.ts";
import type { ImageStore } from "./images.ts";
import type { NumberedRecord } from "./records.ts";
import type { TaskRecords } from "./task-records.ts";
import type { Example } from "./types.ts";

/** What examples are made with, where the task has it. */
export interface ExampleParts {
  /** What the records come from: a path, to which those of images are relative. */
  source: string;
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
    whole: { ...noTokens, images: [await added(image, parts)], answer: parts.classes!.numberOf(label, where) },
  }),
  contrastive: async ({ image, text }, _, parts) => {
    const { whole, isCut } = encoded(text, null, parts);
    return { whole: { ...whole, images: [await added(image, parts)], answer: 0 }, isCut };
  },
};

function encoded(text: string, second: string | null, { tokenizer, maxLength }: ExampleParts): Required<Made> {
  const pair = encodePair(tokenizer!, text, second, maxLength);
  const whole: Example = { ids: pair.ids, labels: noTokens.labels };
  return { whole: pair.second < pair.ids.length ? { ...whole, second: pair.second } : whole, isCut: pair.cut };
}

const added = (image: string, { images, source }: ExampleParts): Promise<number> => images!.add(relativeTo(source, image));

/** A path that a data file names: relative to the file's folder, unless it is absolute. Addresses are not fetched. */
export function relativeTo(source: string, path: string): string {
  if (/^(?:[a-z][a-z0-9+.-]+:\/\/|data:)/i.test(path)) {
    throw new LowrankError("data/images", "the record names its image by an address, and nothing is downloaded", {
      subject: path.slice(0, 200),
      expected: "the path of a file",
      got: "an address",
      next: "Download the images, and write their paths, relative to the data file.",
    });
  }
  const folder = /^(.*)[\\/]/.exec(source)?.[1];
  return /^([\\/]|[a-z]:[\\/])/i.test(path) || folder === undefined ? path : `${folder}/${path}`;
}

/** The example of each record. What goes wrong names the record's place. */
export async function* eachTaskExample<T extends keyof TaskRecords>(
  task: T,
  records: AsyncIterable<NumberedRecord<TaskRecords[T]>>,
  parts: ExampleParts,
): AsyncGenerator<MadeExample<TaskRecords[T]>, void, void> {
  for await (const { record, place } of records) {
    const where = `${parts.source}, ${place}`;
    let made: Made;
    try {
      made = await makers[task](record, where, parts);
    } catch (error) {
      // An unknown class names its place already.
      throw error instanceof LowrankError && error.code === "data/label" ? error : withPlace(error, where);
    }
    yield { record, place, ...made };
  }
}
