// The images of a model that reads them, from files to tensors: what its folder says of preparing them, and where they stand in text.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { type DecodeImage, imagePath, type RgbImage, readImage } from "../images/image.ts";
import { type ImageProcessor, loadImageProcessor, type ProcessedImage } from "../images/processor.ts";
import { once, type TextBase } from "../models/base.ts";
import type { ImageTensors, ImageText } from "../models/images.ts";
import { type DecoderModel, imageTypes, pixelShape, visionOf } from "../models/registry.ts";
import { float32, int32 } from "../tensor.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** An image: its file's path, or itself. */
export type ImageReference = string | RgbImage;

/** What reads images from files; a host that cannot decode any has no `decodeImage`. */
export interface ImageReading {
  files: Files;
  decodeImage?: DecodeImage;
}

/** A row of a batch: its ids, from column `start` on, and its images. */
export interface ImageRow {
  ids: Int32Array;
  start: number;
  images: readonly ProcessedImage[];
}

/** What a model with images has beside its tokenizer. */
export interface ImageSide {
  text: ImageText;
  /** How the model's folder says that images are prepared, read at the first call. Fails with `image/no-processor`; it, with `image/model-size`. */
  processor(): Promise<ImageProcessor>;
  /** Reads an image and prepares it. Fails with `image/…`. */
  prepare(image: ImageReference): Promise<ProcessedImage>;
}

/** The image side of a base; null if it reads no images. Fails with `data/image-token` if its tokenizer has no token for them. */
export function imageSide({ config, checkpoint }: TextBase, tokenizer: Tokenizer, reading?: ImageReading): ImageSide | null {
  const vision = visionOf(config);
  if (!vision) return null;
  const processor = once(async () => {
    if (!reading) {
      throw new LowrankError("image/decoder", "images cannot be read here", {
        subject: checkpoint.folder,
        expected: "files and decodeImage, as Node has them",
        next: "Open the generator with what reads images.",
        exitCode: 1,
      });
    }
    return loadImageProcessor(reading.files, checkpoint.folder, pixelShape(config)!);
  });
  return {
    text: vision.text(config as DecoderModel, tokenizer),
    processor,
    async prepare(image) {
      const { process } = await processor();
      if (typeof image !== "string") return process(image);
      return process(await readImage(reading!.files, reading!.decodeImage, imagePath(image)));
    },
  };
}

/** Images given to a model that reads none. */
export const noImages = ({ config, checkpoint }: TextBase): LowrankError =>
  new LowrankError("model/no-images", "the model reads no images", {
    subject: checkpoint.folder,
    expected: `a model of type ${imageTypes.join(", ")}`,
    got: config.modelType,
    next: "Leave the images out, or choose a model that reads them.",
  });

/** The tensors of the images of a batch [rows, width], under Transformers' names; null if no row has one. */
export function imageTensors(
  text: ImageText,
  processor: Pick<ImageProcessor, "stack">,
  { rows, width }: { rows: number; width: number },
  given: readonly ImageRow[],
): ImageTensors | null {
  const images = given.map((row) => row.images);
  if (images.every((row) => row.length === 0)) return null;
  if (text.attended) {
    const stacked = processor.stack(images);
    const most = stacked.pixelValues.shape[1]!;
    const seen = new Int32Array(rows * width * most);
    for (const [row, { ids, start }] of given.entries()) {
      for (const [i, image] of text.attended(ids).entries()) if (image >= 0) seen[(row * width + start + i) * most + image] = 1;
    }
    return { ...stacked, imageAttentionMask: int32([rows, width, most], seen) };
  }
  // One after another: without padding between rows every pixel is one of an image, and no mask says so.
  const { pixelValues } = processor.stack([images.flat()]);
  return { pixelValues: float32(pixelValues.shape.slice(1), pixelValues.data as Float32Array<ArrayBuffer>) };
}
