// Steps of processors on RGB bytes: cutting, padding, splitting, and the sizes that Transformers resizes to (image_transforms.py,
// models/idefics3/image_processing_pil_idefics3.py). Sizes are [height, width].
import type { RgbImage } from "./image.ts";
import { resize } from "./resize.ts";

/** The part of an image that begins at `top`, `left`, of this size; what lies outside the image is `fill`, or black. */
export function cut(
  image: RgbImage,
  top: number,
  left: number,
  [height, width]: readonly [number, number],
  fill: readonly number[] = [0, 0, 0],
): RgbImage {
  const data = new Uint8Array(3 * width * height);
  if (fill.some((value) => value !== 0)) for (let i = 0; i < data.length; i++) data[i] = fill[i % 3]!;
  const [from, to] = [Math.max(0, left), Math.min(image.width, left + width)];
  for (let y = Math.max(0, -top); y < Math.min(height, image.height - top) && to > from; y++) {
    const row = 3 * (y + top) * image.width;
    data.set(image.data.subarray(row + 3 * from, row + 3 * to), 3 * (y * width + from - left));
  }
  return { ...image, width, height, data };
}

/** The center of an image. Where the image is smaller the odd pixel of the border is above and on the left, as in Transformers. */
export function centerCrop(image: RgbImage, { height, width }: { height: number; width: number }): RgbImage {
  return cut(image, Math.floor((image.height - height) / 2), Math.floor((image.width - width) / 2), [height, width]);
}

/** The image in the middle of a square of its longer side. */
export function padToSquare(image: RgbImage, fill: readonly number[]): RgbImage {
  const side = Math.max(image.width, image.height);
  const [top, left] = [Math.floor((side - image.height) / 2), Math.floor((side - image.width) / 2)];
  return image.width === image.height ? image : cut(image, -top, -left, [side, side], fill);
}

/** The size whose shorter side is `edge`. */
export function shortestEdgeSize({ width, height }: RgbImage, edge: number): [number, number] {
  const long = Math.trunc((edge * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? [long, edge] : [edge, long];
}

/** Idefics3's limit of a side, whatever its config says. */
const MAX_TILED_SIDE = 4096;

/** Idefics3: the size whose longer side is `edge`, the other one even. */
export function longestEdgeSize({ width, height }: RgbImage, edge: number): [number, number] {
  const ratio = width / height;
  const even = (value: number) => Math.max(1, Math.trunc(value) + (Math.trunc(value) % 2));
  const [h, w] = width >= height ? [even(edge / ratio), edge] : [edge, even(edge * ratio)];
  if (Math.max(h, w) <= MAX_TILED_SIDE) return [h, w];
  const bounded = w / h;
  const most = MAX_TILED_SIDE;
  return w >= h ? [Math.max(1, Math.trunc(most / bounded)), most] : [most, Math.max(1, Math.trunc(most * bounded))];
}

/** Idefics3: the next size up of whole tiles. */
function tiledSize({ width, height }: RgbImage, side: number): [number, number] {
  const ratio = width / height;
  const up = (value: number) => Math.ceil(value / side) * side;
  return width >= height ? [up(Math.trunc(up(width) / ratio)), up(width)] : [up(height), up(Math.trunc(up(height) * ratio))];
}

/** Idefics3: the tiles of an image row by row, then the whole image as one tile. `rows` and `columns` are 0 if it is one tile. */
export function splitTiles(
  image: RgbImage,
  side: number,
  resample: number,
): { tiles: RgbImage[]; rows: number; columns: number } {
  const [height, width] = tiledSize(image, side);
  const whole = resize(image, width, height, resample);
  if (height === side && width === side) return { tiles: [whole], rows: 0, columns: 0 };
  const [rows, columns] = [height / side, width / side];
  const tiles = Array.from({ length: rows * columns }, (_, i) =>
    cut(whole, Math.floor(i / columns) * side, (i % columns) * side, [side, side]),
  );
  return { tiles: [...tiles, resize(whole, side, side, resample)], rows, columns };
}
