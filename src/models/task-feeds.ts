// What models of other tasks are fed (TaskFamily's inputs): texts padded to the longest of a batch, prepared images.
import { LowrankError } from "../errors.ts";
import type { Dim } from "../graph/dims.ts";
import { float32, int32, type Tensor } from "../tensor.ts";

/** Texts padded on the right: int32 [rows, width] each. `second` is where tokens of type 1 begin; nowhere if absent. */
export function textFeeds(rows: readonly { ids: Int32Array; second?: number }[], padId: number): Record<string, Tensor> {
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

/**
 * One tile for each of `rows` images, float32 [rows, 1, channels, height, width], as the pixels that a model reads in `shape`,
 * [rows, channels, height, width]. Throws `image/model-size` where they have another size.
 */
export function pixelsOf({ shape: [rows, tiles, ...size], data }: Tensor, shape: readonly Dim[]): Tensor {
  if (tiles === 1 && size.join() === shape.slice(1).join()) return float32([rows!, ...size], data as Float32Array);
  const told = ([channels, height, width]: readonly Dim[]) => `${channels} channels of ${height} × ${width} pixels`;
  throw new LowrankError("image/model-size", "the prepared images have another size than the model reads", {
    expected: told(shape.slice(1)),
    got: tiles === 1 ? told(size) : `${tiles} tiles an image`,
    next: "Use the preprocessor_config.json that belongs to the checkpoint.",
  });
}
