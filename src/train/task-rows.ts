// The rows of batches of other tasks than language modelling: texts padded to the longest, prepared images, classes.
import type { Classes } from "../data/classes.ts";
import type { ImageStore } from "../data/images.ts";
import { type Examples, inOrder } from "../data/store.ts";
import type { Example, FeedBatch } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import { fingerprinter } from "../formats/fingerprint.ts";
import type { Dim } from "../graph/dims.ts";
import { taskInputs } from "../models/registry.ts";
import type { TaskConfig } from "../models/task.ts";
import { float32, int32, type Tensor } from "../tensor.ts";
import type { Rows } from "./rows.ts";

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
        ...(inputs["pixelValues"] && (await pixelFeeds(rows, images!, inputs["pixelValues"].shape))),
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

/** Texts padded on the right: int32 [rows, width] each. */
export function textFeeds(rows: readonly Pick<Example, "ids" | "second">[], padId: number): Record<string, Tensor> {
  const width = rows.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const inputIds = new Int32Array(rows.length * width).fill(padId);
  const attentionMask = new Int32Array(rows.length * width);
  const tokenTypeIds = new Int32Array(rows.length * width);
  for (const [r, { ids, second = ids.length }] of rows.entries()) {
    const start = r * width;
    inputIds.set(ids, start);
    attentionMask.fill(1, start, start + ids.length);
    tokenTypeIds.fill(1, start + second, start + ids.length);
  }
  const shape = [rows.length, width];
  return {
    inputIds: int32(shape, inputIds),
    attentionMask: int32(shape, attentionMask),
    tokenTypeIds: int32(shape, tokenTypeIds),
  };
}

/** The one image of each row: float32 [rows, channels, height, width], which has to be the model's size. */
async function pixelFeeds(
  rows: readonly Pick<Example, "images">[],
  images: ImageStore,
  shape: readonly Dim[],
): Promise<Record<string, Tensor>> {
  const prepared = await Promise.all(rows.map(async ({ images: [number] = [] }) => [await images.read(number!)]));
  return { pixelValues: pixelsOf(images.stack(prepared).pixelValues, shape) };
}

/** One tile for each of `rows` examples, float32 [rows, 1, …], as the model's pixels [rows, channels, height, width]. */
export function pixelsOf({ shape: [rows, tiles, ...size], data }: Tensor, shape: readonly Dim[]): Tensor {
  if (tiles === 1 && size.join() === shape.slice(1).join()) return float32([rows!, ...size], data as Float32Array);
  const told = ([channels, height, width]: readonly Dim[]) => `${channels} channels of ${height} × ${width} pixels`;
  throw new LowrankError("data/images", "the prepared images have another size than the model reads", {
    expected: told(shape.slice(1)),
    got: tiles === 1 ? told(size) : `${tiles} tiles an image`,
    next: "Use the preprocessor_config.json that belongs to the checkpoint.",
  });
}
