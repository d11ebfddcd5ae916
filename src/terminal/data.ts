// A data file, for the terminal: how it was recognized, how far it is read, what became of its records.
import { controlTextNotes } from "../data/control-text.ts";
import type { ExampleReport } from "../data/dataset.ts";
import type { LeftOut } from "../data/readers/blocks.ts";
import type { Recognized } from "../data/readers.ts";
import type { ReadingEvent } from "../train/datasets.ts";
import { bytes, duration, grouped, oneLine } from "../units.ts";

/** Classes that are named with their number of examples. */
const CLASSES_SHOWN = 12;
/** Characters that are shown of a class's name. */
const CLASS_CHARS = 60;

export function readingLine({ path, bytes: read, size, records, seconds }: ReadingEvent): string {
  // Of a folder, and of a file that is read whole while its images are not, the bytes say nothing.
  if (read >= size) {
    const rate = records / seconds;
    return `reading ${path}: ${grouped(records)} records, ${rate < 10 ? rate.toFixed(1) : grouped(Math.round(rate))} a second`;
  }
  const share = `${Math.floor((100 * read) / size)}% of ${bytes(size)}, `;
  const left = read === 0 ? "" : `, ${duration((seconds * (size - read)) / read)} left`;
  return `reading ${path}: ${share}${grouped(records)} records, ${bytes(read / seconds)}/s${left}`;
}

/** How much there is to train on, and a line for each thing that was lost or is odd. */
export function dataLines(what: string, report: ExampleReport): string[] {
  const { count, tokens, targets, longest, classes, images } = report;
  const odd: [number, string][] = [
    [report.truncated, "truncated to the maximum length"],
    [report.droppedCut - (report.droppedImages ?? 0), "left out: truncated before any target"],
    [report.droppedImages ?? 0, "left out: their images do not fit into the maximum length"],
    [report.droppedEmpty, "left out: no targets"],
    [report.emptyCompletions, "with an empty completion, of which only the end is learnt"],
    [report.duplicates, "duplicates"],
    ...controlTextNotes(report).map(([n, text]): [number, string] => [n, oneLine(text)]),
    [report.alsoTrained ?? 0, "in the training data too, so the evaluation looks better than it is"],
  ];
  const trained = report.prompts === undefined ? "" : `, ${grouped(targets)} of them targets`;
  const texts = tokens === 0 ? "" : `, ${grouped(tokens)} tokens${trained}, longest ${longest}`;
  const pictures = images === undefined ? "" : `, ${grouped(images)} images`;
  const kinds = classes?.slice(0, CLASSES_SHOWN).map(({ label, count: own }) => `${oneLine(label, CLASS_CHARS)} ${grouped(own)}`);
  const more = classes && classes.length > CLASSES_SHOWN ? `, and ${classes.length - CLASSES_SHOWN} more` : "";
  return [
    `${what}: ${grouped(count)} examples${texts}${pictures}`,
    ...(classes ? [`  ${classes.length} classes: ${kinds!.join(", ")}${more}`] : []),
    ...odd.filter(([n]) => n > 0).map(([n, text]) => `  ${grouped(n)} ${text}`),
  ];
}

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
  const verb = others === 1 ? "is" : "are";
  const parts = [
    others > 0 &&
      `${plural(others, "file")} that ${verb} no image by the name (${oneLine(first ?? "")}${others > 1 ? ", …" : ""})`,
    hidden > 0 && plural(hidden, "hidden name"),
    empty > 0 && `${plural(empty, "folder")} without an image`,
  ];
  return parts.filter(Boolean).join(", ");
}

const plural = (count: number, what: string): string => `${grouped(count)} ${what}${count === 1 ? "" : "s"}`;
