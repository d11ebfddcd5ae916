// lowrank preview of data for another task than language modelling: records as they are read, classes, lengths, duplicates.

import { recognizedText } from "../../terminal/data.ts";
import { oneLine, print, printJson, table } from "../../terminal/terminal.ts";
import { grouped } from "../../units.ts";
import { bars, lengthsText } from "./lengths.ts";
import type { ShownRecord, TaskPreview } from "./preview-task.ts";
import type { TaskDatasetPreview } from "./task-stats.ts";

/** Classes that are listed; --json has all. */
const MAX_CLASSES = 20;
const LABEL_CHARS = 60;

/** Prints what was found, for people or as JSON. */
export function printTaskPreview({ shown, ...found }: TaskPreview, json: boolean): void {
  if (json) {
    for (const record of shown) printJson({ type: "example", ...record });
    printJson({ type: "preview", ...found });
    return;
  }
  for (const [i, record] of shown.entries()) for (const line of recordLines(record, i + 1)) print(line);
  printFile(found.train, found.maxLength, found.evaluation === null ? "" : "training: ");
  if (found.evaluation) printFile(found.evaluation, found.maxLength, "evaluation: ");
  for (const line of duplicateLines(found)) print(line);
  for (const warning of found.warnings) print(`warning: ${oneLine(warning)}`);
}

function recordLines({ place, label, text, tokens, isCut, image }: ShownRecord, number: number): string[] {
  const length = tokens === undefined ? "" : `: ${grouped(tokens)} tokens${isCut ? ", the rest is cut off" : ""}`;
  const parts = (text ?? []).map((part, i) => `  ${text!.length > 1 ? `text ${i + 1}: ` : "text:   "}${oneLine(part)}`);
  return [
    `example ${number}, ${place}${length}`,
    ...(image ? [`  image:  ${oneLine(image.path)}, ${imageText(image)}`] : []),
    ...parts,
    ...(label === undefined ? [] : [`  class:  ${oneLine(label, LABEL_CHARS)}`]),
    "",
  ];
}

function imageText({ width, height, prepared }: NonNullable<ShownRecord["image"]>): string {
  const { tiles } = prepared;
  return `${width} × ${height} → ${prepared.width} × ${prepared.height}${tiles === 1 ? "" : `, ${tiles} tiles`}`;
}

function printFile(file: TaskDatasetPreview, maxLength: number | null, what: string): void {
  const { source, records, tokens, truncated, lengths, classes, images } = file;
  print(`${what}${source}: ${grouped(records)} records${images === null ? "" : `, ${grouped(images)} images`}`);
  if (file.file) print(`read as: ${recognizedText(file.file)}`);
  if (classes) {
    print(`${grouped(classes.length)} classes:`);
    const share = (count: number) => `${((100 * count) / Math.max(1, records)).toFixed(1)} %`;
    print(
      table(
        classes
          .slice(0, MAX_CLASSES)
          .map(({ label, count }) => [`  ${oneLine(label, LABEL_CHARS)}`, grouped(count), share(count)]),
      ),
    );
    if (classes.length > MAX_CLASSES) print(`  and ${grouped(classes.length - MAX_CLASSES)} more (--json has all)`);
  }
  if (lengths) {
    print(`tokens: ${grouped(tokens)}`);
    print(lengthsText(lengths));
    print(bars(lengths.histogram));
    print(`cut at ${grouped(maxLength!)} tokens: ${truncated === 0 ? "none" : grouped(truncated)}`);
  }
  print("");
}

function duplicateLines({ train, evaluation, duplicates }: Omit<TaskPreview, "shown">): string[] {
  const again = `there more than once: ${grouped(duplicates.train)} of ${grouped(train.records)} training records`;
  if (evaluation === null) return [again];
  const { shared, sameQuestion } = duplicates;
  const others = train.classes ? `; ${grouped(sameQuestion)} more with the text or image alone` : "";
  return [
    `${again}, ${grouped(duplicates.evaluation)} of ${grouped(evaluation.records)} evaluation records`,
    `in the training data too: ${grouped(shared)} evaluation records${others}`,
  ];
}
