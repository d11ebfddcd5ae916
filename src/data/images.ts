// Images that examples name: each file is read and prepared once while the data are read, so that none fails later; a few stay in memory.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import { type DecodeImage, readImage } from "../images/image.ts";
import type { ImageBatch, ImageProcessor, ProcessedImage } from "../images/processor.ts";
import type { ImageGrid } from "../models/images.ts";

/** Prepared images of so many bytes stay in memory; others are read again whenever a batch has them. */
const CACHE_BYTES = 256 << 20;
/** Images that are read and decoded at the same time: the decoder has so many threads, and each holds one whole image. */
const IMAGES_AT_ONCE = 4;

export interface ImageStore {
  /** How many files there are. */
  readonly count: number;
  /** The number of a file. It is read and prepared if it is new; fails with `file/*` and `image/*`. */
  add(path: string): Promise<number>;
  pathOf(number: number): string;
  /** How the image of a number is split, and how many tiles it has; 1 if it is whole. */
  gridOf(number: number): ImageGrid & { tiles: number };
  /** A name for the numbers that its image was when it was added. */
  fingerprintOf(number: number): string;
  /** Bytes of the prepared images that stay in memory. */
  readonly bytes: number;
  /** The prepared image of a number. Fails with `image/changed` if its file is another image than when it was added. */
  read(number: number): Promise<ProcessedImage>;
  /** The images of several examples as one batch. */
  stack(examples: readonly (readonly ProcessedImage[])[]): ImageBatch;
}

/**
 * Files prepared by what `load` gives, which is called with the first image; `add` fails with what it does, and with
 * `image/decoder` where the host has no decoder. Prepared images of `cacheBytes` stay in memory.
 */
export function imageStore(
  files: Files,
  decode: DecodeImage | undefined,
  load: () => Promise<ImageProcessor>,
  cacheBytes = CACHE_BYTES,
): ImageStore {
  let processor: ImageProcessor | undefined;
  const inTurn = atOnce(IMAGES_AT_ONCE);
  const prepare = (path: string): Promise<ProcessedImage> =>
    inTurn(async () => {
      processor ??= await load();
      return processor.process(await readImage(files, decode, path));
    });
  const numbers = new Map<string, Promise<number>>();
  const paths: string[] = [];
  /** What is known of the images that were read, and those that stay in memory. */
  const known: { grid: ImageGrid & { tiles: number }; fingerprint: string; cached?: ProcessedImage }[] = [];
  let bytes = 0;

  async function addNew(path: string, number: number): Promise<number> {
    const image = await prepare(path);
    const { rows, columns, pixelValues } = image;
    const isCached = bytes + pixelValues.data.byteLength <= cacheBytes;
    if (isCached) bytes += pixelValues.data.byteLength;
    const grid = { rows, columns, tiles: pixelValues.shape[0]! };
    known[number] = { grid, fingerprint: nameOf(image), ...(isCached && { cached: image }) };
    return number;
  }

  async function readAgain(number: number): Promise<ProcessedImage> {
    const image = await prepare(paths[number]!);
    if (nameOf(image) !== known[number]!.fingerprint) throw changed(paths[number]!);
    return image;
  }

  return {
    get count() {
      return paths.length;
    },
    get bytes() {
      return bytes;
    },
    add(path) {
      const adding = numbers.get(path) ?? addNew(path, paths.push(path) - 1);
      numbers.set(path, adding);
      return adding;
    },
    pathOf: (number) => paths[number]!,
    gridOf: (number) => known[number]!.grid,
    fingerprintOf: (number) => known[number]!.fingerprint,
    read: async (number) => known[number]!.cached ?? readAgain(number),
    stack: (examples) => processor!.stack(examples),
  };
}

/** A name for the numbers of a prepared image and their shape. */
function nameOf({ pixelValues: { shape, data } }: ProcessedImage): string {
  const { buffer, byteOffset, length } = data as Float32Array;
  return fingerprint([shape, new Uint32Array(buffer, byteOffset, length)]);
}

const changed = (subject: string): LowrankError =>
  new LowrankError("image/changed", "the image changed while it was in use", {
    subject,
    expected: "the image that was there when the data were read",
    got: "another",
    next: "Leave the files of the data alone until the run has ended, and start again.",
    exitCode: 1,
  });

/** The number of a file that a record names. */
export async function addImage(store: ImageStore, path: string): Promise<number> {
  try {
    return await store.add(path);
  } catch (error) {
    if (!(error instanceof LowrankError && error.code === "file/missing")) throw error;
    const { code, message, subject } = error;
    const next = "Correct the path, which is relative to the folder of the data file, or leave the record out.";
    throw new LowrankError(code, message, { subject, next, cause: error });
  }
}

/** Runs work as it is given, at most so many at a time; the rest waits for its turn. */
function atOnce(most: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let free = most;
  return async (work) => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free++;
    }
  };
}
