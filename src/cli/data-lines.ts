// What is told about a data file: how far it is read, what became of its records.
import type { ExampleReport } from "../data/dataset.ts";
import type { ReadingEvent } from "../train/datasets.ts";
import { bytes, duration, grouped } from "../units.ts";

export function readingLine({ path, bytes: read, size, records, seconds }: ReadingEvent): string {
  const share = size === 0 ? "" : `${Math.floor((100 * read) / size)}% of ${bytes(size)}, `;
  const left = read === 0 ? "" : `, ${duration((seconds * (size - read)) / read)} left`;
  return `reading ${path}: ${share}${grouped(records)} records, ${bytes(read / seconds)}/s${left}`;
}

/** How much there is to train on, and a line for each thing that was lost or is odd. */
export function dataLines(what: string, report: ExampleReport): string[] {
  const { count, tokens, targets, longest } = report;
  const odd: [number, string][] = [
    [report.truncated, "cut to the maximum length"],
    [report.droppedCut, "left out: cut before any target"],
    [report.droppedEmpty, "left out: nothing in them to learn"],
    [report.emptyCompletions, "with an empty completion, of which only the end is learnt"],
    [report.duplicates, "there more than once"],
    [report.alsoTrained ?? 0, "in the training data too, so the evaluation looks better than it is"],
  ];
  const sizes = `${grouped(count)} examples, ${grouped(tokens)} tokens, ${grouped(targets)} of them targets, longest ${longest}`;
  return [`${what}: ${sizes}`, ...odd.filter(([n]) => n > 0).map(([n, text]) => `  ${grouped(n)} ${text}`)];
}
