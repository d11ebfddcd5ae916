// What a data file was taken for, in words.
import type { LeftOut } from "../data/readers/blocks.ts";
import type { Recognized } from "../data/readers.ts";
import { grouped } from "../units.ts";
import { oneLine } from "./terminal.ts";

/** Format, spelling and columns of a file, and what of it is left alone; of a folder for each class, what in it is no record. */
export function recognizedText({ format, spelling, used, ignored, leftOut }: Recognized): string {
  if (leftOut) {
    const rest = leftOutText(leftOut);
    return `${format}${rest === "" ? "" : `; left out: ${rest}`}`;
  }
  const rest = ignored.length === 0 ? "" : `; not used: ${listed(ignored)}`;
  return `${format}, ${spelling} (${listed(used)})${rest}`;
}

const listed = (names: readonly string[]): string => `${names.slice(0, 8).join(", ")}${names.length > 8 ? ", …" : ""}`;

function leftOutText({ hidden, others, first, empty }: LeftOut): string {
  const parts: [number, string][] = [
    [
      others,
      `${plural(others, "file")} that ${others === 1 ? "is" : "are"} no image by the name (${oneLine(first ?? "")}${others > 1 ? ", …" : ""})`,
    ],
    [hidden, `${plural(hidden, "hidden name")}`],
    [empty, `${plural(empty, "folder")} without an image`],
  ];
  return parts
    .filter(([count]) => count > 0)
    .map(([, text]) => text)
    .join(", ");
}

const plural = (count: number, what: string): string => `${grouped(count)} ${what}${count === 1 ? "" : "s"}`;
