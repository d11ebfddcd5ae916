// The data of a language model: records of its kinds to tokens, and rows of them to batches, with images where the base reads any.
import { type Collator, collate, examplesName } from "../../data/collate.ts";
import { controlTokensOf } from "../../data/control-text.ts";
import { eachExample } from "../../data/examples.ts";
import { imageStore } from "../../data/images.ts";
import { promptFormatOf } from "../../data/prompts.ts";
import { readRecords } from "../../data/readers.ts";
import { imageSpansOf, type RecordImages, withImages, withoutImages } from "../../data/record-images.ts";
import type { Examples } from "../../data/store.ts";
import { LowrankError } from "../../errors.ts";
import type { TextBase } from "../../models/base.ts";
import type { DecoderConfig } from "../../models/config/config.ts";
import { type DecoderModel, visionOf } from "../../models/registry.ts";
import { imageSide, imageTensors, noImages } from "../../multimodal/images.ts";
import type { Platform } from "../../platform/platform.ts";
import { checkVocabulary, lengthLimit, withCheckedTemplate } from "../common/tokenizer-checks.ts";
import type { DataOptions, TaskData } from "../task.ts";

/** Fails if the tokenizer has ids that the base has no embedding for, or its positions do not suffice. */
export async function languageData(
  base: TextBase,
  options: DataOptions,
  host: Pick<Platform, "files" | "decodeImage">,
): Promise<TaskData> {
  const { files } = host;
  const config = base.config as DecoderModel;
  const tokenizer = await base.tokenizer();
  checkVocabulary(tokenizer, base);
  const maxLength = lengthLimit(options.maxLength, config);
  const now = options.date === undefined ? undefined : new Date(options.date);
  // Padding is masked, so any id will do where the tokenizer's has no row in the embedding.
  const padId = tokenizer.padId < config.vocabSize ? tokenizer.padId : 0;
  const side = imageSide(base, tokenizer, host);
  const images = side && { text: side.text, store: imageStore(files, host.decodeImage, side.processor) };
  return {
    maxLength,
    limit: images ? 2 ** 31 : Math.max(config.vocabSize, maxLength + 1),
    open(path) {
      const file = readRecords(files, path, options);
      const how = { trainOn: options.trainOn, now, source: path, ...(images && { images }) };
      const read = images ? withImages(file, images, path) : withoutImages(file, () => noImages(base), path);
      const checked = withCheckedTemplate(read, tokenizer, (record) => "messages" in record);
      return {
        file,
        records: checked,
        make: (records) => eachExample(records as typeof checked, tokenizer, how),
        isNumbering: images !== null,
      };
    },
    controlTokens: controlTokensOf(tokenizer, side?.text.token),
    // Images that are in no file that was read are in no batch: then the run is one on texts.
    collate: (examples, packLength) => {
      if (!images || images.store.count === 0) return collate(examples, padId, packLength);
      if (packLength !== undefined) throw cannotPack();
      return collateWithImages(examples, config, padId, images);
    },
    prompts: promptFormatOf,
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

/** Batches of texts with what the vision side is fed; every batch carries images, though it may be none. */
function collateWithImages(examples: Examples, config: DecoderConfig, padId: number, { text, store }: RecordImages): Collator {
  const vision = visionOf(config)!;
  const texts = collate(examples, padId);
  return {
    ...texts,
    name: () => examplesName(examples, { imageOf: store.fingerprintOf }),
    size(rows) {
      const counts = rows.map((row) => examples.imagesOf(row));
      // Where text attends to images, rows with fewer are filled up, and one is there in any case.
      const images = vision.attends ? Math.max(1, ...counts) : counts.reduce((sum, count) => sum + count, 0);
      return { ...texts.size(rows), images };
    },
    async batch(indices) {
      const { rows, feeds, ...counts } = await texts.batch(indices);
      const read = await examples.read(indices);
      const given = await Promise.all(
        read.map(async ({ ids, images = [] }) => ({ ids, start: 0, images: await Promise.all(images.map(store.read)) })),
      );
      return { ...counts, feeds: { ...feeds, ...vision.feeds(config, rows, imageTensors(text, store, rows, given)) } };
    },
  };
}
