// From an image to the numbers that a vision model takes: Transformers' image processors in their PIL form (image_processing_backends.py).
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { float32, int32, type Tensor } from "../tensor.ts";
import type { RgbImage } from "./image.ts";
import { type ProcessorConfig, readProcessorConfig, type Size } from "./processor-config.ts";
import { resize } from "./resize.ts";
import { centerCrop, longestEdgeSize, padToSquare, shortestEdgeSize, splitTiles } from "./transforms.ts";

export interface ProcessedImage {
  /** float32 [tiles, 3, height, width]; one tile unless the processor splits images. */
  readonly pixelValues: Tensor;
  /** How the tiles lie, row by row; the last tile is then the whole image. 0 and 0 if there is one tile. */
  readonly rows: number;
  readonly columns: number;
}

export interface ImageBatch {
  /** float32 [examples, tiles, 3, height, width]; tiles that an example does not have are 0. */
  readonly pixelValues: Tensor;
  /** int32 [examples, tiles, height, width]: 1 where there is an image. Only where the processor splits images. */
  readonly pixelAttentionMask?: Tensor;
}

export interface ImageProcessor {
  readonly config: ProcessorConfig;
  /** Prepares one image. Fails if it is not RGB and the processor does not convert. */
  process(image: RgbImage): ProcessedImage;
  /** Puts the images of several examples into one batch, padded as Transformers' processors pad. */
  stack(examples: readonly (readonly ProcessedImage[])[]): ImageBatch;
}

/** What a model reads of an image. */
export interface ReadShape {
  /** Channels, height and width of a tile. */
  size: readonly number[];
  /** It takes one tile, and no image that is split. */
  isWhole?: boolean;
}

/**
 * The processor that a model's folder says: preprocessor_config.json, or processor_config.json. With `read`, images that it
 * prepares otherwise fail with `image/model-size`.
 */
export async function loadImageProcessor(files: Files, folder: string, read?: ReadShape): Promise<ImageProcessor> {
  const config = await readProcessorConfig(files, folder);
  return {
    config,
    process(image) {
      const prepared = processImage(config, image);
      if (read) checkShape(prepared, read, image.name);
      return prepared;
    },
    stack: (examples) => stackImages(config, examples),
  };
}

function checkShape({ pixelValues }: ProcessedImage, { size: read, isWhole }: ReadShape, subject: string): void {
  const [tiles, ...size] = pixelValues.shape;
  const isSize = size.join() === read.join();
  if (isSize && !(isWhole && tiles !== 1)) return;
  const shapeText = ([channels, height, width]: readonly number[]) => `${channels} channels of ${height} × ${width} pixels`;
  throw new LowrankError("image/model-size", "the prepared image has another size than the model reads", {
    subject,
    expected: shapeText(read),
    got: isSize ? `${tiles} tiles` : shapeText(size),
    next: "Use the preprocessor_config.json that belongs to the checkpoint.",
  });
}

function processImage(config: ProcessorConfig, image: RgbImage): ProcessedImage {
  checkChannels(config, image);
  const { tiles, rows, columns } = prepare(config, image);
  const { width, height } = tiles[0]!;
  const table = valueTable(config);
  const values = new Float32Array(tiles.length * 3 * height * width);
  for (const [i, { data }] of tiles.entries()) writePlanes(values.subarray(i * data.length, (i + 1) * data.length), data, table);
  return { pixelValues: float32([tiles.length, 3, height, width], values), rows, columns };
}

function checkChannels({ convertRgb, type }: ProcessorConfig, { channels, name }: RgbImage): void {
  if (convertRgb || channels === 3) return;
  throw new LowrankError("image/channels", `the ${type} of this model accepts RGB images only`, {
    subject: name,
    expected: "3 channels",
    got: channels === 1 ? "1 channel: gray, or a palette" : `${channels} channels`,
    next: 'Convert the image to RGB, or set "do_convert_rgb": true in the preprocessor_config.json of the model.',
  });
}

/** The image as bytes in the size that the model sees. */
function prepare(config: ProcessorConfig, original: RgbImage): { tiles: RgbImage[]; rows: number; columns: number } {
  const { resample } = config;
  let image = config.padToSquare ? padToSquare(original, config.padToSquare) : original;
  if (config.size) {
    const [height, width] = resizedSize(image, config.size);
    image = resize(image, width, height, resample);
  }
  if (config.crop) image = centerCrop(image, config.crop);
  if (!config.tiles) return { tiles: [image], rows: 0, columns: 0 };
  const { side, split } = config.tiles;
  return split ? splitTiles(image, side, resample) : { tiles: [resize(image, side, side, resample)], rows: 0, columns: 0 };
}

function resizedSize(image: RgbImage, size: Size): [number, number] {
  if ("shortestEdge" in size) return shortestEdgeSize(image, size.shortestEdge);
  return "longestEdge" in size ? longestEdgeSize(image, size.longestEdge) : [size.height, size.width];
}

/** What each of the 256 bytes becomes in each channel, in the steps and the precision of NumPy's. */
function valueTable({ rescale, normalize }: ProcessorConfig): Float32Array[] {
  const { fround } = Math;
  const value = (byte: number, channel: number): number => {
    const scaled = fround(byte * rescale);
    return normalize ? fround(scaled - fround(normalize.mean[channel]!)) / fround(normalize.std[channel]!) : scaled;
  };
  return [0, 1, 2].map((channel) => Float32Array.from({ length: 256 }, (_, byte) => value(byte, channel)));
}

/** Writes pixels as three planes. */
function writePlanes(planes: Float32Array, data: Uint8Array, [red, green, blue]: Float32Array[]): void {
  const pixels = data.length / 3;
  for (let i = 0, from = 0; i < pixels; i++, from += 3) {
    planes[i] = red![data[from]!]!;
    planes[pixels + i] = green![data[from + 1]!]!;
    planes[2 * pixels + i] = blue![data[from + 2]!]!;
  }
}

function stackImages(config: ProcessorConfig, examples: readonly (readonly ProcessedImage[])[]): ImageBatch {
  const counts = examples.map((images) => images.reduce((sum, { pixelValues }) => sum + pixelValues.shape[0]!, 0));
  const tile = (examples.flat()[0]?.pixelValues.shape ?? [1, 3, 0, 0]).slice(1);
  const other = examples.flat().find(({ pixelValues }) => pixelValues.shape.slice(1).some((dim, i) => dim !== tile[i]));
  if (other) {
    throw new LowrankError("image/sizes", "images of one batch have different sizes", {
      expected: `${tile[2]} × ${tile[1]} pixels, as the first`,
      got: `${other.pixelValues.shape[3]} × ${other.pixelValues.shape[2]} pixels`,
      next: "Set do_resize to true in preprocessor_config.json, or give images of one size.",
    });
  }
  const most = Math.max(0, ...counts);
  const [tileValues, tilePixels] = [3 * tile[1]! * tile[2]!, tile[1]! * tile[2]!];
  const values = new Float32Array(examples.length * most * tileValues);
  for (const [i, images] of examples.entries()) {
    let at = i * most * tileValues;
    for (const { pixelValues } of images) {
      values.set(pixelValues.data as Float32Array, at);
      at += pixelValues.data.length;
    }
  }
  const pixelValues = float32([examples.length, most, ...tile], values);
  if (!config.tiles?.mask) return { pixelValues };
  const mask = new Int32Array(examples.length * most * tilePixels);
  for (const [i, count] of counts.entries()) mask.fill(1, i * most * tilePixels, (i * most + count) * tilePixels);
  return { pixelValues, pixelAttentionMask: int32([examples.length, most, tile[1]!, tile[2]!], mask) };
}
