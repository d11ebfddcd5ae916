// Images as the rest of the library sees them: rows of RGB bytes. What names them, what a host decodes, and what is refused before it does.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { grouped, bytes as sizeText } from "../units.ts";

/** Largest file that is read. */
export const MAX_IMAGE_BYTES = 64 * 1024 * 1024;
/** Most pixels of an image: where Pillow begins to warn of decompression bombs. Decoded they are 256 MiB. */
export const MAX_IMAGE_PIXELS = 89_478_485;
/** Longest side, which is JPEG's. */
export const MAX_IMAGE_SIDE = 65_535;
/** Most scans of a JPEG: progressive ones have ten or so, and each can cost a pass over all pixels for a few bytes. */
export const MAX_JPEG_SCANS = 100;

/** An image in memory. */
export interface RgbImage {
  /** What errors call it: its path. */
  readonly name: string;
  readonly width: number;
  readonly height: number;
  /** Row after row from the top, pixel after pixel from the left: red, green, blue, a byte each. */
  readonly data: Uint8Array;
  /** Channels of the file before it was made RGB: 1 of gray and of palettes, 2 and 4 with alpha, 4 of CMYK. */
  readonly channels: number;
}

/** An image as it lies in its file, and how EXIF says to turn it: 1 to 8, where 1 is upright. */
export interface StoredImage extends RgbImage {
  readonly orientation: number;
}

/** Formats that are decoded. */
export type ImageFormat = "PNG" | "JPEG" | "WebP";

/**
 * Decodes a whole PNG, JPEG or WebP file; of an animation its first frame. The colours are those of the file, without colour
 * management. What is transparent lies on white, as in Transformers; of 16 bits the high byte stays.
 */
export type DecodeImage = (file: Uint8Array, name: string) => Promise<StoredImage>;

/** What a file begins with: an offset and the bytes there. */
type Magic = [name: string, ...parts: [at: number, text: string][]];

const magics: Magic[] = [
  ["PNG", [0, "\x89PNG\r\n\x1a\n"]],
  ["JPEG", [0, "\xff\xd8\xff"]],
  ["WebP", [0, "RIFF"], [8, "WEBP"]],
];
/** Formats that are named when they are refused. */
const refused: Magic[] = [
  ["GIF", [0, "GIF8"]],
  ["BMP", [0, "BM"]],
  ["TIFF", [0, "II*\0"]],
  ["TIFF", [0, "MM\0*"]],
  ["HEIC or AVIF", [4, "ftyp"]],
  ["SVG", [0, "<svg"]],
  ["XML", [0, "<?xml"]],
  ["PDF", [0, "%PDF"]],
];

const begins = (file: Uint8Array, [, ...parts]: Magic): boolean =>
  parts.every(([at, text]) => [...text].every((character, i) => file[at + i] === character.charCodeAt(0)));

/**
 * The format of a file, by its first bytes; the name of the file does not count. Others are refused, and what is too large, or a
 * JPEG of too many scans.
 */
export function imageFormat(file: Uint8Array, subject: string): ImageFormat {
  checkImageBytes(file.length, subject);
  const known = magics.find((magic) => begins(file, magic));
  if (known?.[0] === "JPEG") checkScans(file, subject);
  if (known) return known[0] as ImageFormat;
  const first = [...file.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  throw new LowrankError("image/format", "not an image that can be decoded", {
    subject,
    expected: "PNG, JPEG or WebP",
    got: file.length === 0 ? "an empty file" : (refused.find((magic) => begins(file, magic))?.[0] ?? `bytes ${first}`),
    next: "Convert the image to one of these formats, or correct the path.",
  });
}

/** Refuses a size that the header of a file declares. To be called before anything of that size is made. */
export function checkImageSize(width: number, height: number, subject: string): void {
  const sides = width <= MAX_IMAGE_SIDE && height <= MAX_IMAGE_SIDE;
  if (sides && width * height <= MAX_IMAGE_PIXELS) return;
  throw new LowrankError("image/pixels", "the image has too many pixels", {
    subject,
    expected: `at most ${grouped(MAX_IMAGE_PIXELS)} pixels, and ${grouped(MAX_IMAGE_SIDE)} along a side`,
    got: `${grouped(width)} × ${grouped(height)} pixels`,
    next: "Make the image smaller. Models see a few hundred pixels a side.",
  });
}

/** Refuses a file by its size in bytes. */
function checkImageBytes(bytes: number, subject: string): void {
  if (bytes <= MAX_IMAGE_BYTES) return;
  throw new LowrankError("image/too-large", "the file is too large for an image", {
    subject,
    expected: `at most ${sizeText(MAX_IMAGE_BYTES)}`,
    got: sizeText(bytes),
    next: "Make the image smaller, or save it as JPEG or WebP.",
  });
}

/** Refuses a JPEG of so many scans that it takes minutes to decode. In what they code no marker occurs. */
function checkScans(file: Uint8Array, subject: string): void {
  let scans = 0;
  for (let at = file.indexOf(0xff); at >= 0; at = file.indexOf(0xff, at + 1)) if (file[at + 1] === 0xda) scans++;
  if (scans <= MAX_JPEG_SCANS) return;
  throw new LowrankError("image/scans", "the JPEG has too many scans", {
    subject,
    expected: `at most ${MAX_JPEG_SCANS}`,
    got: grouped(scans),
    next: "Save the image again, as a JPEG that is not progressive.",
  });
}

/** The error for a file that no decoder can read. */
export const damagedImage = (subject: string, cause: unknown): LowrankError =>
  new LowrankError("image/damaged", "the image cannot be decoded", {
    subject,
    got: String((cause as Error).message).replaceAll("\n", "; "),
    next: "The file is damaged or truncated. Fetch it again, or leave it out of the data.",
    cause,
  });

/** Reads an image file and turns it upright as its EXIF data say. Throws `image/*`. */
export async function readImage(files: Files, decode: DecodeImage | undefined, path: string): Promise<RgbImage> {
  if (!decode) {
    throw new LowrankError("image/decoder", "images cannot be decoded here", {
      subject: path,
      expected: "a host that decodes images (decodeImage), as Node does",
      next: "Run it in Node, or give images that are decoded already.",
      exitCode: 1,
    });
  }
  const size = await files.size(path);
  checkImageBytes(size, path);
  return upright(await decode(await files.read(path, 0, size), path));
}

/** The image turned and mirrored as its orientation says, as Pillow's `exif_transpose` does. */
export function upright({ orientation, ...image }: StoredImage): RgbImage {
  const { width: w, height: h, data } = image;
  /** Where the first pixel of the result lies, and the ways to the next one in its row and in its column. */
  const walk = [
    [0, 1, w],
    [w - 1, -1, w],
    [w * h - 1, -1, -w],
    [w * (h - 1), 1, -w],
    [0, w, 1],
    [w * (h - 1), -w, 1],
    [w * h - 1, -w, -1],
    [w - 1, w, -1],
  ][orientation - 1];
  if (!walk || orientation === 1) return image;
  const [first, right, down] = walk as [number, number, number];
  const [width, height] = orientation > 4 ? [h, w] : [w, h];
  const turned = new Uint8Array(data.length);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 3 * (first + x * right + y * down);
      turned[to++] = data[from]!;
      turned[to++] = data[from + 1]!;
      turned[to++] = data[from + 2]!;
    }
  }
  return { ...image, width, height, data: turned };
}

/** Characters of an address that errors show. */
const SHOWN_CHARS = 200;

/**
 * The path that `reference` names: relative ones are relative to `folder`, if it is given. An address on the network is refused
 * with `image/address`, since nothing is downloaded; `subject` is where it stands.
 */
export function imagePath(reference: string, folder: string | null = null, subject?: string): string {
  if (reference.startsWith("file://")) return fileOf(reference, subject);
  if (/^(?:[a-z][a-z0-9+.-]+:\/\/|data:)/i.test(reference)) {
    throw new LowrankError("image/address", "the image is a URL, and images are not downloaded", {
      subject,
      expected: "the path of a PNG, JPEG or WebP file",
      got: reference.slice(0, SHOWN_CHARS),
      next: "Download the image, and give its path; in a data file, relative to the file.",
    });
  }
  return folder === null || /^([\\/]|[a-z]:[\\/])/i.test(reference) ? reference : `${folder.replace(/[\\/]$/, "")}/${reference}`;
}

function fileOf(reference: string, subject?: string): string {
  try {
    return decodeURIComponent(new URL(reference).pathname);
  } catch (cause) {
    throw new LowrankError("image/address", "the image's URL cannot be parsed", {
      subject,
      expected: "a path, or file:// and a path in which % begins the code of a character",
      got: reference.slice(0, SHOWN_CHARS),
      next: "Write the path without file://.",
      cause,
    });
  }
}

// Pixels of four channels as RGB, by Pillow's integer arithmetic, so that they are equal to its to the bit.

/** (a · b + more) / 255, rounded. */
function share(a: number, b: number, more = 0): number {
  const product = a * b + more + 128;
  return ((product >> 8) + product) >> 8;
}

/** CMYK, 255 being all of an ink: Pillow's `convert("RGB")`. */
export function fromCmyk(cmyk: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((cmyk.length / 4) * 3);
  for (let from = 0, to = 0; from < cmyk.length; from += 4) {
    const light = 255 - cmyk[from + 3]!;
    for (let i = 0; i < 3; i++) rgb[to++] = Math.max(0, light - share(cmyk[from + i]!, light));
  }
  return rgb;
}

/** RGBA on a white background, as Transformers' `convert_to_rgb` does it with Pillow's `alpha_composite`. */
export function overWhite(rgba: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = rgba[from + 3]!;
    for (let i = 0; i < 3; i++) rgb[to++] = share(rgba[from + i]!, alpha, 255 * (255 - alpha));
  }
  return rgb;
}
