// How the records of a base's task become examples, and examples batches: of a language model, and of other tasks.
import { type Classes, classesOf } from "../data/classes.ts";
import { eachExample, type MadeExample } from "../data/examples.ts";
import { type ImageStore, imageStore } from "../data/images.ts";
import { type RecordFile, readRecords, readSpelled } from "../data/readers.ts";
import { withImages, withoutImages } from "../data/record-images.ts";
import type { Examples } from "../data/store.ts";
import { eachTaskExample } from "../data/task-examples.ts";
import { type AnyRecord, type TaskRecords, taskSpellings } from "../data/task-records.ts";
import type { Example } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { loadImageProcessor } from "../images/processor.ts";
import type { TextBase } from "../models/base.ts";
import type { DecoderConfig } from "../models/config/config.ts";
import { pixelShape, taskInputs } from "../models/registry.ts";
import type { TaskConfig } from "../models/task.ts";
import { imageSide, noImages } from "../multimodal/images.ts";
import type { Platform } from "../platform/platform.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type Rows, rowsOf } from "./collate.ts";
import type { DataOptions } from "./datasets.ts";
import { imageRowsOf } from "./image-rows.ts";
import { type ImageSpan, imageSpansOf } from "./image-spans.ts";
import { taskRowsOf } from "./task-rows.ts";
import { checkVocabulary, lengthLimit, withCheckedTemplate } from "./tokenizer-checks.ts";

/** What a host gives to read data with. */
export type DataHost = Pick<Platform, "files" | "decodeImage">;

export interface TaskData {
  /** Longest example, in tokens. */
  maxLength: number;
  /** The ids and numbers of examples are below this. */
  limit: number;
  /** The records of a file, and the examples that they become. */
  open(path: string): { file: RecordFile<AnyRecord>; examples: AsyncIterable<MadeExample<AnyRecord>> };
  rows(examples: Examples, packLength?: number): Rows;
  /** Of a classifier. */
  classes?: Classes;
  /** Of a base that reads images. */
  images?: ImageStore;
  /** Of a language model that reads images. */
  imageSpans?: (example: Example) => ImageSpan[];
}

/**
 * The data of `base`'s task. `fixedClasses`: a classifier's classes are the base's own, and other labels are refused. Fails if the
 * tokenizer has ids that the base has no embedding for, or its positions do not suffice.
 */
export function taskData(base: TextBase, options: DataOptions, host: DataHost, fixedClasses: boolean): Promise<TaskData> {
  const { config } = base;
  return "task" in config ? dataOfTask(base, config, options, host, fixedClasses) : languageData(base, config, options, host);
}

/** Padding is masked, so any id will do where the tokenizer's has no row in the embedding. */
const padIdOf = ({ padId }: Tokenizer, vocabSize: number): number => (padId < vocabSize ? padId : 0);

async function languageData(base: TextBase, config: DecoderConfig, options: DataOptions, host: DataHost): Promise<TaskData> {
  const { files } = host;
  const tokenizer = await base.tokenizer();
  checkVocabulary(tokenizer, base);
  const maxLength = lengthLimit(options.maxLength, config);
  const now = options.date === undefined ? undefined : new Date(options.date);
  const padId = padIdOf(tokenizer, config.vocabSize);
  const side = imageSide(base, tokenizer, host);
  const images = side && { text: side.text, store: imageStore(files, host.decodeImage, side.processor) };
  return {
    maxLength,
    limit: images ? 2 ** 31 : Math.max(config.vocabSize, maxLength + 1),
    open(path) {
      const file = readRecords(files, path, options);
      const how = { trainOn: options.trainOn, now, source: path, ...(images && { images }) };
      const read = images ? withImages(file, images, path) : withoutImages(file, () => noImages(base), path);
      return { file, examples: eachExample(withCheckedTemplate(read, tokenizer), tokenizer, how) };
    },
    // Images that are in no file that was read are in no batch: then the run is one on texts.
    rows: (examples, packLength) => {
      if (!images || images.store.count === 0) return rowsOf(examples, padId, packLength);
      if (packLength !== undefined) throw cannotPack();
      return imageRowsOf(examples, config, padId, images);
    },
    ...(images && { images: images.store, imageSpans: (example) => imageSpansOf(example, images) }),
  };
}

const cannotPack = (): LowrankError =>
  new LowrankError("train/option", "examples with images cannot be packed", {
    subject: "packing",
    expected: "an example a row",
    got: "true",
    next: "Leave out packing.",
  });

async function dataOfTask(
  base: TextBase,
  config: TaskConfig,
  options: DataOptions,
  { files, decodeImage }: DataHost,
  fixedClasses: boolean,
): Promise<TaskData> {
  const inputs = taskInputs(config);
  const tokenizer = inputs["inputIds"] && (await base.tokenizer());
  if (tokenizer) checkVocabulary(tokenizer, base);
  const { folder } = base.checkpoint;
  const shape = pixelShape(config);
  const processor = shape && (await loadImageProcessor(files, folder, shape));
  const images = processor && imageStore(files, decodeImage, async () => processor);
  const own = config.newHead === null || fixedClasses ? config.labels : [];
  const { records = config.task } = options;
  const classes = records === "contrastive" ? undefined : classesOf(own, fixedClasses);
  // Of a model that reads images only, the length is that of an image.
  const maxLength = tokenizer ? lengthLimit(options.maxLength, config) : config.maxPositions;
  const parts = { maxLength, tokenizer, images, classes };
  return {
    maxLength,
    limit: 2 ** 31,
    open: (path) => openTask(files, path, records, options, parts),
    rows: (examples) =>
      taskRowsOf(examples, config, { padId: tokenizer && padIdOf(tokenizer, config.vocabSize), images, classes }),
    classes,
    images,
  };
}

function openTask<T extends keyof TaskRecords>(
  files: Files,
  path: string,
  task: T,
  options: DataOptions,
  parts: Parameters<typeof eachTaskExample>[2],
) {
  const file: RecordFile<TaskRecords[T]> = readSpelled(files, path, taskSpellings[task](options));
  return { file, examples: eachTaskExample(task, file, parts) };
}
