// What names an image: the path of a file, on its own or beside the file that names it.
import { LowrankError } from "../errors.ts";

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
