// The batches of a language model that reads images: those of texts, and what the vision side is fed.
import { type Collator, collate, examplesName } from "../../data/collate.ts";
import type { RecordImages } from "../../data/record-images.ts";
import type { Examples } from "../../data/store.ts";
import type { DecoderConfig } from "../../models/config/config.ts";
import { visionOf } from "../../models/registry.ts";
import { imageTensors } from "../../multimodal/images.ts";

/** The examples as rows, in order; every batch carries images, though it may be none. */
export function collateWithImages(
  examples: Examples,
  config: DecoderConfig,
  padId: number,
  { text, store }: RecordImages,
): Collator {
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
