// The rows of batches of other tasks than language modelling: texts padded to the longest, prepared images, classes.
import type { Classes } from "../data/classes.ts";
import type { ImageStore } from "../data/images.ts";
import { type Examples, inOrder } from "../data/store.ts";
import type { Example, FeedBatch } from "../data/types.ts";
import { fingerprinter } from "../formats/fingerprint.ts";
import { taskInputs } from "../models/registry.ts";
import type { TaskConfig } from "../models/task.ts";
import { pixelsOf, textFeeds } from "../models/task-feeds.ts";
import { int32, type Tensor } from "../tensor.ts";
import type { Rows } from "./collate.ts";

/** What a batch is made with, where the task has it. */
export interface TaskParts {
  padId?: number;
  images?: ImageStore;
  classes?: Classes;
}

/** The examples of `config`'s task as rows, in order. */
export function taskRowsOf(examples: Examples, config: TaskConfig, { padId = 0, images, classes }: TaskParts): Rows<FeedBatch> {
  const inputs = taskInputs(config);
  const lengths = Int32Array.from({ length: examples.length }, (_, i) => examples.tokensOf(i) || config.maxPositions);
  return {
    examples,
    lengths,
    facts: { padId, classes: classes?.labels().join("\n") ?? null },
    async name() {
      const name = fingerprinter();
      for await (const { ids, answer = 0, second = 0, images: own = [] } of inOrder(examples)) {
        name.add(ids);
        name.add([second, classes?.placeOf(answer) ?? answer]);
        for (const number of own) name.add(new TextEncoder().encode(images!.fingerprintOf(number)));
      }
      return name.end();
    },
    size: (indices) => ({
      rows: indices.length,
      width: indices.reduce((most, i) => Math.max(most, lengths[i]!), 0),
      targets: indices.length,
    }),
    async batch(indices) {
      const rows = await examples.read(indices);
      const feeds = {
        ...(inputs["inputIds"] && textFeeds(rows, padId)),
        ...(inputs["pixelValues"] && (await pixelFeeds(rows, images!))),
        ...(classes && {
          labels: int32(
            [rows.length],
            Int32Array.from(rows, ({ answer = 0 }) => classes.placeOf(answer)),
          ),
        }),
      };
      const read = Object.entries(feeds).filter(([name]) => name === "labels" || inputs[name]);
      const tokens = indices.reduce((sum, i) => sum + lengths[i]!, 0);
      return { feeds: Object.fromEntries(read), targets: rows.length, tokens };
    },
  };
}

/** The one image of each row: float32 [rows, channels, height, width]. */
async function pixelFeeds(rows: readonly Pick<Example, "images">[], images: ImageStore): Promise<Record<string, Tensor>> {
  const prepared = await Promise.all(rows.map(async ({ images: [number] = [] }) => [await images.read(number!)]));
  return { pixelValues: pixelsOf(images.stack(prepared).pixelValues) };
}
