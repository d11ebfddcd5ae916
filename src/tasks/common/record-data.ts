// The data of tasks whose records are fields: texts and images to tokens and prepared pixels, to batches. What differs is a RecordKind.
import { padRows, rowFeeds } from "../../data/batch.ts";
import { type Classes, classesOf } from "../../data/classes.ts";
import { type Collator, examplesName, sizeOfRows } from "../../data/collate.ts";
import { controlTokensOf } from "../../data/control-text.ts";
import { fieldsKey } from "../../data/duplicates.ts";
import { type MadeExample, withPlace } from "../../data/examples.ts";
import { type ImageStore, imageStore } from "../../data/images.ts";
import { type RecordFile, readFormats } from "../../data/readers.ts";
import type { ColumnNames, Fields, NumberedRecord, RecordFormat, RecordFormats } from "../../data/records.ts";
import { type Examples, textsIn } from "../../data/store.ts";
import { type Example, IGNORE, textKey } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import { loadImageProcessor } from "../../images/processor.ts";
import { headModule, type ModelConfig, modelInputs, pixelShape } from "../../models/registry.ts";
import { float32, int32, type Tensor } from "../../tensor.ts";
import { encodePair } from "../../text/pairs.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import type { Task } from "../task.ts";
import { recordPreview } from "./record-preview.ts";
import { checkVocabulary, lengthLimit } from "./tokenizer-checks.ts";

/** What examples and batches are made with, where the base has it. */
export interface RecordParts {
  /** Longest text, in tokens. */
  maxLength: number;
  tokenizer?: Tokenizer;
  classes?: Classes;
  images?: ImageStore;
}

/** What a task does with its records. */
export interface RecordKind<R extends object> {
  /** How data sets write them. */
  formats(columns: ColumnNames): RecordFormats<R>;
  /** The fields that are the answer to the others, by which records contradict each other. */
  answers: readonly string[];
  example(record: R, where: string, parts: RecordParts): Promise<{ whole: Example; isCut?: boolean }>;
  /** Data bring classes. */
  hasClasses?: true;
  /** Each text of an example is a row of the batch: the first ones of all examples, then the second ones, and so on. */
  textRows?: true;
  /** What dims of the loss graph stand for in a batch of so many examples and texts. */
  lengths?(examples: number, texts: number): Record<string, number>;
  /** What a batch is fed beside texts and images. */
  feeds?(rows: readonly Example[], parts: RecordParts): Record<string, Tensor>;
}

/** A format whose rows have a key for each field of their records, which `readers` read; fields without one are absent. */
export function fieldsFormat<R extends object>(
  name: string,
  keys: { [F in keyof R]: string },
  readers: { [F in keyof R]-?: (row: Fields, key: string) => R[F] },
): RecordFormat<R> {
  const fields = (Object.keys(keys) as (keyof R)[]).filter((field) => keys[field] !== undefined);
  return {
    name,
    keys: fields.map((field) => keys[field]),
    optional: [],
    make: (row) => Object.fromEntries(fields.map((field) => [field, readers[field](row, keys[field])])) as R,
  };
}

/** Readers of fields. */
export const readText = (row: Fields, key: string): string => row.text(key);
export const readPath = (row: Fields, key: string): string => row.path(key);

/** What the rows of tasks with such records share. */
export const recordTask = {
  takes: [],
  unit: "examples",
  evalBatchSize: 32,
  preview: recordPreview,
} as const satisfies Partial<Task>;

export const noTokens: Pick<Example, "ids" | "labels"> = { ids: new Int32Array(), labels: new Int32Array() };

/** Records that are prepared ahead of the one that is waited for, where they have images: the decoder works on several. */
const IMAGES_AHEAD = 16;

/**
 * The data of records of this kind, for a base. Fails if the tokenizer has ids that the base has no embedding for, or its positions do
 * not suffice.
 */
export const recordData =
  <R extends object>(kind: RecordKind<R>): Task["data"] =>
  async (base, options, { files, decodeImage }) => {
    const { config } = base;
    const inputs = modelInputs(config);
    const tokenizer = inputs["inputIds"] && (await base.tokenizer());
    if (tokenizer) checkVocabulary(tokenizer, base);
    const shape = inputs["pixelValues"] && pixelShape(config);
    const processor = shape && (await loadImageProcessor(files, base.checkpoint.folder, shape));
    const images = processor && imageStore(files, decodeImage, async () => processor);
    const fixed = options.fixedClasses ?? false;
    const own = (config.uninitializedHead === null || fixed) && headModule(config) !== null ? config.labels : [];
    const classes = kind.hasClasses && classesOf(own, fixed);
    // Of a model that reads images only, the length is that of an image.
    const maxLength = tokenizer ? lengthLimit(options.maxLength, config) : config.maxPositions;
    const parts = { maxLength, tokenizer, images, classes };
    return {
      maxLength,
      limit: 2 ** 31,
      open(path) {
        const file = readFormats(files, path, kind.formats(options));
        const make = (records: AsyncIterable<NumberedRecord>) => eachRecord(kind, records as typeof file, file.where, parts);
        return { file, records: file, make, isNumbering: (images ?? classes) !== undefined };
      },
      ...(tokenizer && { controlTokens: controlTokensOf(tokenizer) }),
      collate: (examples) => collateRecords(kind, examples, config, parts),
      classes,
      images,
    };
  };

/** The example of each record. What goes wrong names the record's place. */
async function* eachRecord<R extends object>(
  kind: RecordKind<R>,
  records: AsyncIterable<NumberedRecord<R>>,
  whereIs: RecordFile<R>["where"],
  parts: RecordParts,
): AsyncGenerator<MadeExample<R>, void, void> {
  const ahead = parts.images ? IMAGES_AHEAD : 1;
  const make = async ({ record, place }: NumberedRecord<R>): Promise<MadeExample<R>> => {
    const where = whereIs(place);
    try {
      const { whole, isCut = false } = await kind.example(record, where, parts);
      return { record, place, key: fieldsKey(record, kind.answers), whole, isCut };
    } catch (error) {
      // An unknown class names its place already.
      throw error instanceof LowrankError && error.code === "data/label" ? error : withPlace(error, where);
    }
  };
  const begun: Promise<MadeExample<R>>[] = [];
  try {
    for await (const row of records) {
      const made = make(row);
      // It is reported when its turn comes.
      made.catch(() => {});
      begun.push(made);
      if (begun.length === ahead) yield await begun.shift()!;
    }
  } catch (error) {
    // What is wrong with an earlier record is reported first.
    yield* begun;
    throw error;
  }
  yield* begun;
}

/** The examples as rows, in order. */
function collateRecords<R extends object>(
  kind: RecordKind<R>,
  examples: Examples,
  config: ModelConfig,
  parts: RecordParts,
): Collator {
  const { tokenizer, images, classes } = parts;
  const padId = tokenizer ? paddingOf(config, tokenizer) : 0;
  const lengths = Int32Array.from({ length: examples.length }, (_, i) => examples.tokensOf(i) || config.maxPositions);
  const read = modelInputs(config);
  const sum = (rows: readonly number[], of: (row: number) => number) => rows.reduce((total, row) => total + of(row), 0);
  return {
    examples,
    lengths,
    identity: { padId, classes: classes?.labels().join("\n") ?? null },
    name: () => examplesName(examples, { imageOf: images?.fingerprintOf, classOf: classes?.placeOf }),
    size(rows) {
      const texts = sum(rows, examples.textsOf);
      return {
        ...sizeOfRows(lengths, rows),
        ...(kind.textRows && { rows: texts, width: Math.max(...rows.map(examples.longestOf)) }),
        targets: sum(rows, examples.targetsOf),
        ...(kind.lengths && { lengths: kind.lengths(rows.length, texts) }),
      };
    },
    async batch(indices) {
      const rows = await examples.read(indices);
      const texts = kind.textRows ? textsInTurn(rows) : rows;
      const feeds = { ...(tokenizer && textFeeds(texts, padId)), ...(images && (await pixelFeeds(rows, images))) };
      return {
        feeds: { ...Object.fromEntries(Object.entries(feeds).filter(([name]) => read[name])), ...kind.feeds?.(rows, parts) },
        targets: sum(indices, examples.targetsOf),
        tokens: sum(indices, (row) => lengths[row]!),
        rowKeys: kind.textRows ? keysInTurn(rows, indices) : indices,
      };
    },
  };
}

/** The texts of examples: the first ones, then the second ones, and so on. */
export function textsInTurn(rows: readonly Example[]): Pick<Example, "ids">[] {
  const texts = rows.map(textsIn);
  const most = Math.max(...texts.map(({ length }) => length));
  return Array.from({ length: most }, (_, nth) => texts.flatMap((own) => (own[nth] ? [{ ids: own[nth] }] : []))).flat();
}

/** The keys of those texts. */
function keysInTurn(rows: readonly Example[], indices: readonly number[]): number[] {
  const counts = rows.map((row) => textsIn(row).length);
  const nths = Array.from({ length: Math.max(...counts) }, (_, nth) => nth);
  return nths.flatMap((nth) => indices.filter((_, i) => nth < counts[i]!).map((index) => textKey(index, nth)));
}

/** Padding is masked, so any id will do where the tokenizer's has no row in the embedding; a head that looks for `padId` gets it. */
export const paddingOf = ({ padId, vocabSize }: ModelConfig, tokenizer: Pick<Tokenizer, "padId">): number =>
  padId ?? (tokenizer.padId < vocabSize ? tokenizer.padId : 0);

/** Texts padded on the right, int32 [rows, width] each; tokens of a second text have the type 1. */
export function textFeeds(rows: readonly Pick<Example, "ids" | "starts">[], padId: number): Record<string, Tensor> {
  const padded = padRows(
    rows.map((row) => [row]),
    padId,
  );
  const { width } = padded;
  const tokenTypeIds = new Int32Array(rows.length * width);
  for (const [r, { ids, starts: [second = ids.length] = [] }] of rows.entries())
    tokenTypeIds.fill(1, r * width + second, r * width + ids.length);
  return { ...rowFeeds(padded), tokenTypeIds: int32([rows.length, width], tokenTypeIds) };
}

/** The one image of each row: float32 [rows, channels, height, width]. */
async function pixelFeeds(rows: readonly Pick<Example, "images">[], images: ImageStore): Promise<Record<string, Tensor>> {
  const prepared = await Promise.all(rows.map(async ({ images: [number] = [] }) => [await images.read(number!)]));
  return { pixelValues: wholeImages(images.stack(prepared).pixelValues) };
}

/** Images of one tile, float32 [rows, 1, channels, height, width], as the pixels that a model reads, [rows, channels, height, width]. */
export const wholeImages = ({ shape: [rows, , ...size], data }: Tensor): Tensor =>
  float32([rows!, ...size], data as Float32Array);

/** A text, or two as one, truncated to the longest that the parts allow: an example that counts as one. */
export function encodeTexts(
  text: string,
  second: string | null,
  { tokenizer, maxLength }: RecordParts,
): { whole: Example; isCut: boolean } {
  const { ids, second: start, cut } = encodePair(tokenizer!, text, second, maxLength);
  const whole: Example = { ids, labels: new Int32Array(ids.length).fill(IGNORE), targets: 1 };
  return { whole: start < ids.length ? { ...whole, starts: [start] } : whole, isCut: cut };
}

/** Texts one behind the other, as one example. */
export function joinTexts(texts: readonly Pick<Example, "ids" | "labels">[]): Example {
  const ends: number[] = [];
  for (const { ids } of texts) ends.push((ends.at(-1) ?? 0) + ids.length);
  return {
    ids: Int32Array.from(texts.flatMap(({ ids }) => [...ids])),
    labels: Int32Array.from(texts.flatMap(({ labels }) => [...labels])),
    starts: ends.slice(0, -1),
  };
}
