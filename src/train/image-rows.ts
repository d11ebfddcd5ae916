// The rows of batches of a language model that reads images: those of texts, and what the vision side is fed.
import { makeBatch } from "../data/batch.ts";
import type { RecordImages } from "../data/record-images.ts";
import type { Examples } from "../data/store.ts";
import type { Batch } from "../data/types.ts";
import type { DecoderConfig } from "../models/config/config.ts";
import { visionOf } from "../models/registry.ts";
import { imageTensors } from "../multimodal/images.ts";
import { type Rows, rowsOf } from "./collate.ts";

/** The examples as rows, in order; every batch carries images, though it may be none. */
export function imageRowsOf(
  examples: Examples,
  config: DecoderConfig,
  padId: number,
  { text, store }: RecordImages,
): Rows<Batch> {
  const vision = visionOf(config)!;
  const rows = rowsOf(examples, padId);
  return {
    ...rows,
    name: () => rows.name((number) => store.fingerprintOf(number)),
    size(indices) {
      const counts = indices.map((index) => examples.imagesOf(index));
      // Where text attends to images, rows with fewer are filled up, and one is there in any case.
      const images = vision.attends ? Math.max(1, ...counts) : counts.reduce((sum, count) => sum + count, 0);
      return { ...rows.size(indices), images };
    },
    async batch(indices) {
      const read = await examples.read(indices);
      const batch = makeBatch(
        read.map((example) => [example]),
        { padId },
      );
      const given = await Promise.all(
        read.map(async ({ ids, images = [] }) => ({ ids, start: 0, images: await Promise.all(images.map(store.read)) })),
      );
      return { ...batch, images: vision.feeds(config, batch, imageTensors(text, store, batch, given)) };
    },
  };
}
