// lowrank eval: how well a base does on a data file, by what its task measures, and an adapter beside it; how many answers are exact.
import { z } from "zod";
import type { Files } from "../../files.ts";
import { loadBase } from "../../models/base.ts";
import { type Given, option, reworded } from "../../options.ts";
import { classificationScores } from "../../tasks/common/classification.ts";
import { notFinite } from "../../tasks/common/measures.ts";
import { taskOf } from "../../tasks/index.ts";
import type { Score, ScoreTable } from "../../tasks/task.ts";
import { table } from "../../terminal/columns.ts";
import { dataLines, recognizedText } from "../../terminal/data.ts";
import { note, print, printJson, status } from "../../terminal/terminal.ts";
import { columnOptions, readingOptions, runOptions, taskOption } from "../../train/options.ts";
import { readRunChoices } from "../../train/run-file.ts";
import { grouped, oneLine, percent } from "../../units.ts";
import { adapterOption, anyBase, base, baseDtype, type Context, defineCommand, device, threads } from "../command.ts";
import { type AnswerOptions, answers, isMatch } from "./answers.ts";
import { type Evaluation, evaluate } from "./evaluate.ts";

export const command = defineCommand({
  summary:
    "how well a model does on a data file, with and without an adapter: loss, perplexity, exact answers; accuracy and F1; recall",
  options: {
    base,
    data: reworded(runOptions.data, { help: "records, in a format as for training" }),
    adapter: adapterOption("an adapter to evaluate beside the base"),
    anyBase,
    task: taskOption,
    ...readingOptions,
    generate: option(z.boolean().optional(), { help: "also answer every prompt greedily, and count exact matches" }),
    template: option(z.array(z.string()).optional(), {
      help: "zero-shot classification: template for a class's text (a photo of a {}); can be repeated, embeddings are averaged",
    }),
    limit: option(z.number().optional(), { help: "with --generate: only the first N records are answered" }),
    batchSize: option(z.number().optional(), {
      help: "batch size (4; 32 for models other than language models); contrastive models match pairs within a batch",
    }),
    baseDtype,
    device,
    threads,
  },
  examples: ["--base embedded --adapter my-adapter --data test.jsonl", "--base embedded --data test.jsonl --generate --limit 50"],
  async run({ generate = false, limit, ...given }, context) {
    const { platform, json } = context;
    const options = await asTrained(platform.files, given);
    // Another model answers no prompts: that fails before anything is computed.
    if (generate) await loadBase(platform.files, options.base, platform.timeLimit);
    const evaluation = await evaluate(options, platform);
    const { data } = evaluation;
    if (json) printJson({ type: "eval", ...evaluation });
    else {
      if (data.file) print(`${data.file.path}: ${recognizedText(data.file)}`);
      print(...dataLines("data", data), ...evaluationLines(evaluation));
    }
    checkLosses(evaluation, options);
    if (generate) await compareAnswers({ ...options, limit }, context);
    return 0;
  },
});

/** Fails with `predict/not-finite` where a loss is no number. */
function checkLosses({ base, adapter }: Evaluation, folders: { base: string; adapter?: string }): void {
  for (const [score, subject] of [[base, folders.base] as const, [adapter, folders.adapter] as const]) {
    if (score && !Number.isFinite(score.loss)) throw notFinite("loss is", String(score.loss), subject);
  }
}

/** The options, with those of the run that trained the adapter where the command line has none; either all columns or none. */
async function asTrained<T extends Given<typeof columnOptions> & { adapter?: string }>(files: Files, given: T): Promise<T> {
  if (given.adapter === undefined) return given;
  const isGiven = (name: string) => given[name as keyof T] !== undefined;
  const columns = Object.keys(columnOptions);
  const kept = Object.entries(await readRunChoices(files, given.adapter)).filter(([name]) =>
    columns.includes(name) ? !columns.some(isGiven) : !isGiven(name),
  );
  return { ...given, ...Object.fromEntries(kept) };
}

/** Answers every record; prints each as JSON, or for people how many are exact. */
async function compareAnswers(options: AnswerOptions, { platform, json }: Context): Promise<void> {
  let done = 0;
  const wrong: [expected: string, found: string][] = [];
  for await (const event of answers(options, platform)) {
    if (json) printJson(event);
    else if (event.type === "answer") {
      status(`${grouped(++done)} answers`);
      const found = (event.adapter ?? event.base).trim();
      if (!isMatch(found, event) && wrong.length < SHOWN)
        wrong.push([oneLine(event.expected, SHOWN_CHARS), oneLine(found, SHOWN_CHARS)]);
    } else {
      const cells = (exact: number) => [`${exact} of ${event.count}`, percent(exact / event.count)];
      print("", ...sidesTable(["exact answers", "share"], cells, event.base, event.adapter));
      if (wrong.length > 0) print("", "Some that are not:");
      for (const [expected, found] of wrong) print(`  expected  ${expected}`, `  found     ${found}`);
      note("--json prints every answer beside the expected one.");
    }
  }
}

/** Wrong answers that are shown: the first ones. */
const SHOWN = 5;
const SHOWN_CHARS = 60;

/** Of a template. */
const TEMPLATE_CHARS = 40;

/** What an evaluation prints. */
function evaluationLines(evaluation: Evaluation): string[] {
  if (evaluation.task !== "zero-shot")
    return scoresLines<Score>(taskOf(evaluation.task).scores, evaluation, evaluation.batchSize);
  const [first, ...others] = evaluation.template;
  const more = others.length > 0 ? ` and ${others.length} more` : "";
  return [
    `zero-shot: each class as "${oneLine(first!, TEMPLATE_CHARS)}"${more} (--template)`,
    ...scoresLines(classificationScores, evaluation, 1),
  ];
}

/** Base and adapter under each other. */
function sidesTable<S>(titles: readonly string[], cells: (score: S) => string[], base: S, adapter: S | null): string[] {
  const below = adapter === null ? [] : [["with the adapter", ...cells(adapter)]];
  return table([["", ...titles], ["base", ...cells(base)], ...below]);
}

/** The scores of base and adapter, and the details below them. */
function scoresLines<S>(
  { columns, details }: ScoreTable<S>,
  { base, adapter }: { base: S | null; adapter: S | null },
  batchSize: number,
): string[] {
  const titles = columns.map(([title]) => title);
  const cells = (score: S | null) => columns.map(([, cell]) => (score ? cell(score) : "—"));
  const below = details?.({ base, adapter, batchSize }) ?? [];
  return [
    ...sidesTable(titles, cells, base, adapter),
    ...below.flatMap((part) => (typeof part === "string" ? part : table(part))),
  ];
}
