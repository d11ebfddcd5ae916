// The data of a language model: records of its kinds to tokens, and rows of them to batches, with images where the base reads any.
import { collate } from "../../data/collate.ts";
import { eachExample } from "../../data/examples.ts";
import { imageStore } from "../../data/images.ts";
import { promptFormatOf } from "../../data/prompts.ts";
import { readRecords } from "../../data/readers.ts";
import { imageSpansOf, withImages, withoutImages } from "../../data/record-images.ts";
import { LowrankError } from "../../errors.ts";
import type { TextBase } from "../../models/base.ts";
import type { DecoderModel } from "../../models/registry.ts";
import { imageSide, noImages } from "../../multimodal/images.ts";
import type { Platform } from "../../platform/platform.ts";
import { checkVocabulary, lengthLimit, withCheckedTemplate } from "../common/tokenizer-checks.ts";
import type { DataOptions, TaskData } from "../task.ts";
import { collateWithImages } from "./image-rows.ts";

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
      return { file, examples: eachExample(withCheckedTemplate(read, tokenizer), tokenizer, how) };
    },
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
