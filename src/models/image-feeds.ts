// From a processor's tensors and the tokens around them to what the graph of a model with images is fed.
import { LowrankError } from "../errors.ts";
import { float32, int32, type Tensor } from "../tensor.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { ImageTensors, ImageTokens } from "./images.ts";
import { type PatchConfig, patchCount } from "./layers/vision.ts";

/**
 * The images of a tensor [images, …] or [rows, images, …], one after another: how many there are, how many values each has, and which
 * are real; those that are zero in every pixel fill up rows with fewer. Fails if they are not of the model's size.
 */
function imagesIn(pixels: Tensor | undefined, c: PatchConfig) {
  const [height, width] = c.imageSize;
  const size = c.channels * height * width;
  if (pixels && pixels.shape.slice(-3).join() !== [c.channels, height, width].join()) {
    throw problem("the images have another size than the model reads", {
      expected: `${c.channels} channels of ${height} × ${width} pixels`,
      got: `[${pixels.shape.join(", ")}]`,
      next: "Prepare them by the model's own preprocessor_config.json.",
    });
  }
  const values = (pixels?.data ?? new Float32Array()) as Float32Array<ArrayBuffer>;
  const image = (i: number) => values.subarray(i * size, (i + 1) * size);
  const all = counting(values.length / size);
  const real = pixels?.shape.length === 5 ? all.filter((i) => image(i).some((value) => value !== 0)) : all;
  return { values, size, count: all.length, image, real };
}

const counting = (length: number): number[] => Array.from({ length }, (_, i) => i);

/** The flat places of the image tokens, in order. Fails unless there are `perImage` for each of `images` images. */
function imageRows({ inputIds }: ImageTokens, imageToken: number, perImage: number, images: number): Tensor {
  const rows = [...inputIds.keys()].filter((at) => inputIds[at] === imageToken);
  if (rows.length !== images * perImage) {
    throw problem("the image tokens are not as many as the images' features", {
      expected: `${images} images of ${perImage} tokens each: ${images * perImage} tokens ${imageToken}`,
      got: `${rows.length}`,
      next: "Expand each image of the text by the model's own processor, and do not cut between its tokens.",
    });
  }
  return int32([rows.length], rows);
}

/** The token whose places features take, and how many of them an image has. */
interface Place {
  imageToken: number;
  perImage: number;
}

/**
 * `pixelValues` [images, channels, height, width] and `imageRows` for features that take the place of image tokens. Without
 * images none of the tokens is replaced, whatever it is.
 */
export function placedFeeds(
  tokens: ImageTokens,
  images: ImageTensors | null,
  c: PatchConfig,
  { imageToken, perImage }: Place,
): Record<string, Tensor> {
  const { values, size, count, image, real } = imagesIn(images?.pixelValues, c);
  const kept = real.length === count ? values : new Float32Array(real.length * size);
  if (kept !== values) for (const [to, i] of real.entries()) kept.set(image(i), to * size);
  return {
    pixelValues: float32([real.length, c.channels, ...c.imageSize], kept),
    imageRows: images ? imageRows(tokens, imageToken, perImage, real.length) : int32([0], []),
  };
}

/**
 * What `placedFeeds` gives, and of each patch its position and whether it is seen: int32 `patchPositions` and `patchMask`
 * [images, patches].
 */
export function gridFeeds(
  tokens: ImageTokens,
  images: ImageTensors | null,
  c: PatchConfig,
  place: Place,
): Record<string, Tensor> {
  const { real } = imagesIn(images?.pixelValues, c);
  const mask = images?.pixelAttentionMask;
  // Without a mask all images have the grid of a whole one.
  const whole = mask || real.length === 0 ? undefined : patchGridOf(undefined, 0, c);
  const grids = real.map((i) => whole ?? patchGridOf(mask, i, c));
  const each = (of: (grid: (typeof grids)[number]) => number[]) => int32([real.length, patchCount(c)], grids.flatMap(of));
  return {
    ...placedFeeds(tokens, images, c, place),
    patchPositions: each(({ positions }) => positions),
    patchMask: each(({ seen }) => seen),
  };
}

/** Of each patch of image `index`: 1 where a pixel of it is seen, and the position that an image of its extent has there. */
function patchGridOf(mask: Tensor | undefined, index: number, c: PatchConfig): { positions: number[]; seen: number[] } {
  const [height, width] = c.imageSize;
  const [tall, wide] = c.patchSize;
  const [down, across] = [Math.floor(height / tall), Math.floor(width / wide)];
  const pixel = (y: number, x: number) => !mask || Number(mask.data[(index * height + y) * width + x]) !== 0;
  const isSeen = (row: number, column: number): boolean => {
    for (let i = 0; i < tall * wide; i++) if (pixel(row * tall + Math.floor(i / wide), column * wide + (i % wide))) return true;
    return false;
  };
  const seen = counting(down * across).map((i) => Number(isSeen(Math.floor(i / across), i % across)));
  const rows = buckets(counting(down).filter((row) => seen[row * across]).length, down);
  const columns = buckets(counting(across).filter((column) => seen[column]).length, across);
  return { seen, positions: seen.map((one, i) => (one ? rows[Math.floor(i / across)]! * across + columns[i % across]! : 0)) };
}

/**
 * The positions, of `all` along an edge, that `used` patches take: NaViT's fractions (Dehghani et al. 2023), i / used of the
 * edge, in float32 as Transformers computes and compares them.
 */
function buckets(used: number, all: number): number[] {
  const step = Math.fround(1 / used);
  const bounds = counting(all - 1).map((i) => Math.fround(1 / all + i * (1 / all)));
  return counting(all).map((i) => {
    const place = Math.min(Math.fround(i * step), Math.fround(1 - 1e-6));
    return bounds.filter((bound) => bound <= place).length;
  });
}

/**
 * `pixelValues` [rows, images, channels, height, width] and `imageAttention` int32 [rows, width, images] for text that attends to
 * images. Without images, an image that no token sees.
 */
export function seenFeeds({ rows, width }: ImageTokens, images: ImageTensors | null, c: PatchConfig): Record<string, Tensor> {
  const seen = images?.imageAttentionMask;
  const { count, values, size } = imagesIn(images?.pixelValues, c);
  if (!images) {
    return {
      pixelValues: float32([rows, 1, c.channels, ...c.imageSize], new Float32Array(rows * size)),
      imageAttention: int32([rows, width, 1], new Int32Array(rows * width)),
    };
  }
  const perRow = count / rows;
  if (seen?.shape.join() !== [rows, width, perRow].join() || perRow === 0) {
    throw problem("the images of a batch and the tokens that see them do not fit together", {
      expected: `as many images in each of ${rows} rows, and an image attention mask [${rows}, ${width}, images]`,
      got: `${count} images, a mask [${seen?.shape.join(", ") ?? "none"}]`,
      next: "Prepare texts and images together, by the model's own processor.",
    });
  }
  return {
    pixelValues: float32([rows, perRow, c.channels, ...c.imageSize], values),
    imageAttention: int32(seen.shape, seen.data as Int32Array),
  };
}

/** The token that `config.json` has for images. Fails with `data/image-token` if the tokenizer lacks it. */
export function imageTokenOf({ idToToken }: Tokenizer, id: number): { token: string; id: number } {
  const token = idToToken(id);
  if (token !== undefined) return { token, id };
  throw noImageToken(`a token with the id ${id}, which config.json has for images, or the family if it has none`);
}

export const noImageToken = (expected: string): LowrankError =>
  new LowrankError("data/image-token", "the tokenizer has no token for images", {
    subject: "tokenizer.json",
    expected,
    got: "none",
    next: "Take the tokenizer's files of the model's own page; of a model of your own, write the token's id into config.json.",
  });

/**
 * Of each of the ids the image that it attends to: the last one before it, whose own token counts, until a text ends (`eosId`);
 * -1 is none.
 */
export function lastImages(ids: Int32Array, imageId: number, eosId: number | undefined): Int32Array {
  let [count, ended] = [-1, false];
  return ids.map((id) => {
    if (id === imageId) [count, ended] = [count + 1, false];
    const seen = ended ? -1 : count;
    if (id === eosId) ended = true;
    return seen;
  });
}

const problem = (message: string, facts: ConstructorParameters<typeof LowrankError>[2]): LowrankError =>
  new LowrankError("data/images", message, facts);
