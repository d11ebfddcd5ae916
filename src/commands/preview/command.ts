// lowrank preview: what a run would train on, before anything is trained.
import { z } from "zod";
import { option, pick, reworded } from "../../options.ts";
import { recognizedText } from "../../terminal/data.ts";
import { print, printJson, shown } from "../../terminal/terminal.ts";
import { readingOptions, runOptions } from "../../train/options.ts";
import { grouped } from "../../units.ts";
import { defineCommand } from "../command.ts";
import type { DatasetPreview } from "./dataset-stats.ts";
import { bars, lengthsText } from "./lengths.ts";
import { type Preview, type PreviewedTask, preview, type ShownExample } from "./preview.ts";
import { printTaskPreview } from "./print-task.ts";

export const command = defineCommand({
  summary: "what a run would train on: examples with the trained tokens marked, lengths, losses, duplicates",
  options: {
    ...pick(runOptions, "base", "data", "evalData", "evalSplit"),
    seed: reworded(runOptions.seed, { help: "the run's, which chooses the records of --eval-split" }),
    ...readingOptions,
    examples: option(z.number().default(3), { help: "how many examples are shown" }),
    ids: option(z.boolean().optional(), { help: "with --json, the examples' token ids too" }),
  },
  examples: ["--base embedded --data train.jsonl --eval-split 0.1"],
  async run(options, { platform, json }) {
    const previewed = await preview<PreviewedTask>(options, platform);
    if (previewed.task !== "causal-lm") {
      printTaskPreview(previewed, json);
      return 0;
    }
    const { shown: examples, ...found } = previewed;
    if (json) {
      for (const example of examples) printJson({ type: "example", ...example, trainedText: trainedText(example) });
      printJson({ type: "preview", ...found });
      return 0;
    }
    const marks = process.stdout.isTTY && !process.env["NO_COLOR"] ? coloured : quoted;
    for (const [i, example] of examples.entries()) {
      print(
        `example ${i + 1}, ${example.place}: ${grouped(example.tokens)} tokens, ${grouped(example.trained)} of them trained${cutNote(example)}`,
      );
      print(
        example.parts
          .map(({ text, trained }) => (trained ? marks(shown(text)) : shown(text)))
          .join("")
          .trimEnd(),
      );
      print("");
    }
    if (examples.length > 0) print(`trained tokens are marked ${marks("like this")}`);
    printFile(found.train, found.maxLength, found.evaluation === null ? "" : "training: ");
    if (found.evaluation) printFile(found.evaluation, found.maxLength, "evaluation: ");
    print("");
    for (const line of duplicateLines(found)) print(line);
    for (const warning of found.warnings) print(`warning: ${warning}`);
    return 0;
  },
});

/** The trained texts, each from its beginning to where something follows that is not trained. */
const trainedText = ({ parts }: ShownExample): string[] => parts.filter(({ trained }) => trained).map(({ text }) => text);

const quoted = (text: string): string => `«${text}»`;
/** Green, line by line, so that a pager shows it. */
const coloured = (text: string): string =>
  text.replace(/[^\n]+/g, "\x1b[32m$&\x1b[39m").replace(/^(?=\n)|^$/, "\x1b[32m↵\x1b[39m");

const cutNote = ({ cut }: ShownExample): string => (cut === 0 ? "" : `, ${grouped(cut)} more cut off`);

const KINDS = { messages: "conversations", completion: "prompts with completions", text: "texts" };

function printFile({ source, file, kind, lengths, dropped, ...counts }: DatasetPreview, maxLength: number, what: string): void {
  const { records, examples, tokens, trained, truncated, cutTokens, cutTrained } = counts;
  print("");
  print(`${what}${source}: ${grouped(records)} ${KINDS[kind]}`);
  if (file) print(`read as: ${recognizedText(file)}`);
  print(`tokens: ${grouped(tokens)}, of which ${grouped(trained)} are trained (${percent(trained, tokens)})`);
  print(lengthsText(lengths));
  print(bars(lengths.histogram));
  const trainedLost = `${grouped(cutTokens)} tokens lost, ${grouped(cutTrained)} of them would have been trained`;
  print(`cut at ${grouped(maxLength)} tokens: ${truncated === 0 ? "none" : `${grouped(truncated)}, ${trainedLost}`}`);
  const reasons = [
    dropped.cut > 0 ? `${grouped(dropped.cut)} that are cut before anything trained` : "",
    dropped.empty > 0 ? `${grouped(dropped.empty)} without anything to train` : "",
  ].filter(Boolean);
  const more = records - examples > dropped.places.length ? ", …" : "";
  print(`left out: ${reasons.length === 0 ? "none" : `${reasons.join(", ")} (${dropped.places.join(", ")}${more})`}`);
}

const percent = (part: number, whole: number): string => `${whole === 0 ? 0 : ((100 * part) / whole).toFixed(1)} %`;

function duplicateLines({ duplicates, train, evaluation }: Omit<Preview, "shown">): string[] {
  const again = `there more than once: ${grouped(duplicates.train)} of ${grouped(train.records)} training records`;
  if (evaluation === null) return [again];
  const { shared, sameQuestion } = duplicates;
  return [
    `${again}, ${grouped(duplicates.evaluation)} of ${grouped(evaluation.records)} evaluation records`,
    `in the training data too: ${grouped(shared)} evaluation records; of ${grouped(sameQuestion)} others the prompt`,
  ];
}
