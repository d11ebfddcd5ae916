// lowrank preview: what a run would train on, before anything is trained.
import type { ContinuedStats, DatasetStats, Lengths, ShownExample, TextPart } from "../../tasks/common/preview.ts";
import { table } from "../../terminal/columns.ts";
import { recognizedText } from "../../terminal/data.ts";
import { control, print, printJson } from "../../terminal/terminal.ts";
import { grouped, oneLine, percent } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { type Preview, preview, previewOptions } from "./preview.ts";

/** Classes that are listed; --json has all. */
const MAX_CLASSES = 20;
const LABEL_CHARS = 60;
const BAR_CELLS = 40;

export const command = defineCommand({
  summary: "show what a run would train on: examples with the trained tokens marked, lengths, losses, duplicates",
  options: previewOptions,
  examples: ["--base embedded --data train.jsonl --eval-split 0.1"],
  async run(options, { platform, json }) {
    const found = await preview(options, platform);
    if (!json) printPreview(found);
    else {
      const { shown, ...rest } = found;
      for (const example of shown)
        printJson({ type: "example", ...example, ...(example.parts && { trainedText: trainedText(example) }) });
      printJson({ type: "preview", ...rest });
    }
    return 0;
  },
});

/** Prints what was found, for people. */
function printPreview({ shown: examples, ...found }: Preview): void {
  const marks = process.stdout.isTTY && !process.env["NO_COLOR"] ? coloured : quoted;
  for (const [i, example] of examples.entries()) print(...exampleLines(example, i + 1, marks));
  if (examples.some(({ parts, texts }) => parts || texts)) print(`trained tokens are marked ${marks("like this")}`);
  printFile(found.train, found.maxLength, found.evaluation === null ? "" : "training: ");
  if (found.evaluation) printFile(found.evaluation, found.maxLength, "evaluation: ");
  print("", ...duplicateLines(found), ...found.warnings.map((warning) => `warning: ${oneLine(warning)}`));
}

/** The trained texts, each from its beginning to where something follows that is not trained. */
const trainedText = ({ parts = [] }: ShownExample): string[] => parts.filter(({ trained }) => trained).map(({ text }) => text);

const quoted = (text: string): string => `«${text}»`;
/** Green, line by line, so that a pager shows it. */
const coloured = (text: string): string => text.replace(/[^\n]+/g, (line) => green(line)).replace(/^(?=\n)|^$/, green("↵"));
const green = (text: string): string => `${control("\x1b[32m")}${text}${control("\x1b[39m")}`;

function exampleLines(example: ShownExample, number: number, marks: (text: string) => string): string[] {
  const { place, label, words, text = [], tokens, isCut, trained, cut = 0, parts, texts = [], image } = example;
  const counts = [
    tokens !== undefined && `${grouped(tokens)} tokens`,
    trained !== undefined && `${grouped(trained)} of them trained`,
    cut > 0 && `${grouped(cut)} more cut off`,
    isCut && "the rest is cut off",
  ].filter(Boolean);
  const markedPart = ({ text, trained }: TextPart) => (trained ? marks(text) : text);
  const marked = (pieces: readonly TextPart[]): string[] => pieces.map(markedPart).join("").trimEnd().split("\n");
  const wordTexts = words?.map((word) => `${oneLine(word.text)} (${oneLine(word.label, LABEL_CHARS)})`);
  return [
    `example ${number}, ${place}${counts.length === 0 ? "" : `: ${counts.join(", ")}`}`,
    ...(image ? [`  image:  ${oneLine(image.path)}, ${imageText(image)}`] : []),
    ...text.map((part, i) => `  ${text.length > 1 ? `text ${i + 1}: ` : "text:   "}${oneLine(part)}`),
    ...(wordTexts ? [`  words:  ${wordTexts.join(" ")}`] : []),
    ...(label === undefined ? [] : [`  label:  ${oneLine(label, LABEL_CHARS)}`]),
    ...(parts ? marked(parts) : []),
    ...texts.flatMap((one) => [`  ${one.name}:`, ...marked(one.parts)]),
    "",
  ];
}

function imageText({ width, height, prepared }: NonNullable<ShownExample["image"]>): string {
  const { tiles } = prepared;
  return `${width} × ${height} → ${prepared.width} × ${prepared.height}${tiles === 1 ? "" : `, ${tiles} tiles`}`;
}

const KINDS = { messages: "conversations", completion: "prompts with completions", text: "texts", pair: "pairs of answers" };

function printFile(stats: DatasetStats, maxLength: number | null, what: string): void {
  const { source, file, records, classes, images, continued } = stats;
  print("");
  const kind = continued ? KINDS[continued.kind] : "records";
  print(`${what}${source}: ${grouped(records)} ${kind}${images === null ? "" : `, ${grouped(images)} images`}`);
  if (file) print(`read as: ${recognizedText(file)}`);
  if (classes) print(...classLines(classes, stats.words ?? records));
  if (stats.lengths) print(...lengthLines(stats, stats.lengths, maxLength!));
  if (continued) print(leftOut(continued, records));
}

function* classLines(classes: NonNullable<DatasetStats["classes"]>, records: number): Generator<string> {
  yield `${grouped(classes.length)} classes:`;
  const rows = classes.slice(0, MAX_CLASSES);
  yield* table(
    rows.map(({ label, count }) => [`  ${oneLine(label, LABEL_CHARS)}`, grouped(count), percent(count / Math.max(1, records))]),
  );
  if (classes.length > MAX_CLASSES) yield `  and ${grouped(classes.length - MAX_CLASSES)} more (--json has all)`;
}

function* lengthLines({ tokens, truncated, continued }: DatasetStats, lengths: Lengths, maxLength: number): Generator<string> {
  const { shortest, longest, median, most, histogram } = lengths;
  const trained = continued
    ? `, of which ${grouped(continued.trained)} are trained (${percent(continued.trained / Math.max(1, tokens))})`
    : "";
  yield `tokens: ${grouped(tokens)}${trained}`;
  yield `lengths: ${shortest} to ${grouped(longest)} tokens, half up to ${median}, 95 % up to ${most}`;
  yield* bars(histogram);
  const lost = continued
    ? `, ${grouped(continued.cutTokens)} tokens lost, ${grouped(continued.cutTrained)} of them would have been trained`
    : "";
  yield `truncated at ${grouped(maxLength)} tokens: ${truncated === 0 ? "none" : `${grouped(truncated)}${lost}`}`;
}

function leftOut({ dropped, examples }: ContinuedStats, records: number): string {
  const reasons = [
    dropped.cut > 0 && `${grouped(dropped.cut)} truncated before any target`,
    dropped.empty > 0 && `${grouped(dropped.empty)} without anything to train`,
  ].filter(Boolean);
  const more = records - examples > dropped.places.length ? ", …" : "";
  return `left out: ${reasons.length === 0 ? "none" : `${reasons.join(", ")} (${dropped.places.join(", ")}${more})`}`;
}

function bars(histogram: Lengths["histogram"]): string[] {
  const most = Math.max(1, ...histogram.map(({ count }) => count));
  const rows = histogram.map(({ from, to, count }) => {
    const cells = count === 0 ? 0 : Math.max(1, Math.round((BAR_CELLS * count) / most));
    return [from === to ? `  ${from}` : `  ${from}–${to}`, grouped(count), "█".repeat(cells).padEnd(BAR_CELLS)];
  });
  return rows.length === 0 ? [] : table(rows);
}

function duplicateLines({ duplicates, train, evaluation }: Omit<Preview, "shown">): string[] {
  const again = `duplicates: ${grouped(duplicates.train)} of ${grouped(train.records)} training records`;
  if (evaluation === null) return [again];
  const { shared, sameQuestion } = duplicates;
  return [
    `${again}, ${grouped(duplicates.evaluation)} of ${grouped(evaluation.records)} evaluation records`,
    `in the training data too: ${grouped(shared)} evaluation records; ${grouped(sameQuestion)} more by their prompt, text or image alone`,
  ];
}
