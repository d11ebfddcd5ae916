// What models of other tasks are fed (TaskFamily's inputs): texts padded to the longest of a batch, prepared images.
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

/** Images of one tile, float32 [rows, 1, channels, height, width], as the pixels that a model reads, [rows, channels, height, width]. */
export const pixelsOf = ({ shape: [rows, , ...size], data }: Tensor): Tensor => float32([rows!, ...size], data as Float32Array);
