// What a data file was taken for, in words.
import type { Recognized } from "../data/readers.ts";

/** Format, spelling and columns of a file, and what of it is left alone. */
export function recognizedText({ format, spelling, used, ignored }: Recognized): string {
  const rest = ignored.length === 0 ? "" : `; not used: ${listed(ignored)}`;
  return `${format}, ${spelling} (${listed(used)})${rest}`;
}

const listed = (names: readonly string[]): string => `${names.slice(0, 8).join(", ")}${names.length > 8 ? ", …" : ""}`;
