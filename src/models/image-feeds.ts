// From a processor's tensors and the tokens around them to what the graph of a model with images is fed.
import { LowrankError } from "../errors.ts";
import { float32, int32, type Tensor } from "../tensor.ts";
import type { ImageTensors, ImageTokens } from "./images.ts";
import type { PatchConfig } from "./vision.ts";

/** Images one after another, [images, channels, height, width]. Fails if they are not of the model's size. */
export function flatImages(pixels: Tensor | undefined, c: PatchConfig): { count: number; values: Float32Array; size: number } {
  const [height, width] = c.imageSize;
  const size = c.channels * height * width;
  if (!pixels) return { count: 0, values: new Float32Array(), size };
  if (pixels.shape.slice(-3).join() !== [c.channels, height, width].join()) {
    throw problem("the images have another size than the model reads", {
      expected: `${c.channels} channels of ${height} × ${width} pixels`,
      got: `[${pixels.shape.join(", ")}]`,
      next: "Prepare them by the model's own preprocessor_config.json.",
    });
  }
  const values = pixels.data as Float32Array;
  return { count: values.length / size, values, size };
}

/** The flat places of the image tokens, in order. Fails unless there are `perImage` for each of `images` images. */
export function imageRows({ inputIds }: ImageTokens, imageToken: number, perImage: number, images: number): Tensor {
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

/**
 * `pixelValues` [images, channels, height, width] and `imageRows` for features that take the place of image tokens. Without
 * images none of the tokens is replaced, whatever it is.
 */
export function placedFeeds(
  tokens: ImageTokens,
  images: ImageTensors | null,
  c: PatchConfig,
  { imageToken, perImage }: { imageToken: number; perImage: number },
): Record<string, Tensor> {
  const { count, values } = flatImages(images?.pixelValues, c);
  return {
    pixelValues: float32([count, c.channels, ...c.imageSize], values),
    imageRows: images ? imageRows(tokens, imageToken, perImage, count) : int32([0], []),
  };
}

export const problem = (message: string, facts: ConstructorParameters<typeof LowrankError>[2]): LowrankError =>
  new LowrankError("data/images", message, facts);
