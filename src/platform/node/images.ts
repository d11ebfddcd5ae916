// DecodeImage for Node over sharp (libvips), which decodes away from JavaScript's thread.
import type { Metadata, Sharp, SharpOptions } from "sharp";
import { LowrankError } from "../../errors.ts";
import {
  checkImageSize,
  type DecodeImage,
  damagedImage,
  fromCmyk,
  imageFormat,
  MAX_IMAGE_PIXELS,
  overWhite,
} from "../../images/image.ts";

/** The longest that one image may take to decode. */
const MAX_DECODE_SECONDS = 20;

/** `failOn` "error" takes what libjpeg only warns of, as Pillow does; what is cut short is refused. */
const options: SharpOptions = { failOn: "error", ignoreIcc: true, limitInputPixels: MAX_IMAGE_PIXELS, sequentialRead: true };

/** RGB of the whole image, and its size. */
async function pixels(image: Sharp, { space }: Metadata) {
  const isCmyk = space === "cmyk";
  const converted = isCmyk ? image.pipelineColourspace("cmyk").toColourspace("cmyk") : image.toColourspace("srgb");
  const { data, info } = await converted.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
  const given = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { ...info, data: isCmyk ? fromCmyk(given) : info.channels === 4 ? overWhite(given) : given };
}

/** sharp is loaded with the first image: it is native code, which training on text does without. */
async function library() {
  try {
    return (await import("sharp")).default;
  } catch (cause) {
    throw new LowrankError("image/decoder", "the library that decodes images does not load on this machine", {
      subject: "sharp",
      got: String((cause as Error).message).split("\n")[0],
      next: "Install again with optional packages (npm install --include=optional); see https://sharp.pixelplumbing.com/install.",
      exitCode: 1,
      cause,
    });
  }
}

export const decodeImage: DecodeImage = async (file, name) => {
  imageFormat(file, name); // refuses what is none
  const sharp = await library();
  try {
    const metadata = await sharp(file, { ...options, limitInputPixels: false }).metadata();
    checkImageSize(metadata.width, metadata.height, name);
    const image = sharp(file, options).timeout({ seconds: MAX_DECODE_SECONDS });
    const { width, height, data } = await pixels(image, metadata);
    const channels = metadata.isPalette ? 1 : metadata.channels;
    return { name, width, height, data, channels, orientation: metadata.orientation ?? 1 };
  } catch (cause) {
    throw cause instanceof LowrankError ? cause : damagedImage(name, cause);
  }
};
