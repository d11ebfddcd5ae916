// lowrank eval: how well a base does on a data file, by what its task measures, and an adapter beside it; how many answers are exact.

import { dataLines } from "../../cli/data-lines.ts";
import { recognizedText } from "../../cli/recognized.ts";
import { note, oneLine, print, printJson, table } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { answers, evaluate, loadBase, nodePlatform } from "../../node.ts";
import { columnOptions, readRunColumns } from "../../train/options.ts";
import { grouped } from "../../units.ts";
import type { AnswerOptions } from "./answers.ts";
import type { EvaluatedTask, EvaluateOptions } from "./evaluate.ts";
import { evaluationText, percent } from "./table.ts";

/** Evaluates; returns the exit status. */
export async function run({ generate = false, limit, ...given }: Values, json: boolean): Promise<number> {
  const options = await withColumns(given);
  // Another model answers no prompts: that is told before anything is computed.
  if (generate) await loadBase(String(options["base"]));
  const evaluation = await evaluate<EvaluatedTask>(options as unknown as EvaluateOptions);
  const { data } = evaluation;
  if (json) printJson({ type: "eval", ...evaluation });
  else {
    if (data.file) print(`${data.file.path}: ${recognizedText(data.file)}`);
    for (const line of dataLines("data", data)) print(line);
    for (const text of evaluationText(evaluation)) print(text);
  }
  if (generate) await compareAnswers({ ...options, limit } as unknown as AnswerOptions, json);
  return 0;
}

/** The options, with the columns that the adapter was trained on where the command line names none. */
async function withColumns(given: Values): Promise<Values> {
  const named = columnOptions.some((name) => given[name] !== undefined);
  if (named || given["adapter"] === undefined) return given;
  return { ...given, ...(await readRunColumns(nodePlatform.files, String(given["adapter"]))) };
}

/** Answers every record; prints each as JSON, or for people how many are exact. */
async function compareAnswers(options: AnswerOptions, json: boolean): Promise<void> {
  const terminal = process.stderr.isTTY === true;
  let done = 0;
  const wrong: [expected: string, found: string][] = [];
  for await (const event of answers(options)) {
    if (json) printJson(event);
    else if (event.type === "answer") {
      if (terminal) process.stderr.write(`\r\x1b[K${grouped(++done)} answers`);
      const found = (event.adapter ?? event.base).trim();
      if (found !== event.expected.trim() && wrong.length < SHOWN)
        wrong.push([oneLine(event.expected, SHOWN_CHARS), oneLine(found, SHOWN_CHARS)]);
    } else {
      if (terminal) process.stderr.write("\r\x1b[K");
      const row = (name: string, exact: number) => [name, `${exact} of ${event.count}`, `${percent(exact / event.count)}`];
      const rows = [["", "exact answers", "share"], row("base", event.base)];
      print(`\n${table(event.adapter === null ? rows : [...rows, row("with the adapter", event.adapter)])}`);
      if (wrong.length > 0) print("\nSome that are not:");
      for (const [expected, found] of wrong) print(`  expected  ${expected}\n  found     ${found}`);
      note("--json prints every answer beside the expected one.");
    }
  }
}

/** Wrong answers that are shown: the first ones. */
const SHOWN = 5;
const SHOWN_CHARS = 60;
