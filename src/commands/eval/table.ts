// The scores of an evaluation as tables, by what the task says of them.

import { classificationScores } from "../../tasks/common/classification.ts";
import { taskOf } from "../../tasks/index.ts";
import type { Score, ScoreTable } from "../../tasks/task.ts";
import { oneLine, table } from "../../terminal/terminal.ts";
import type { Evaluation } from "./evaluate.ts";

/** Of a template. */
const TEMPLATE_CHARS = 40;

/** What an evaluation prints: tables and lines, in their order. */
export function evaluationText(evaluation: Evaluation): string[] {
  if (evaluation.task !== "zero-shot") return scoresText<Score>(taskOf(evaluation.task).scores, evaluation, evaluation.batchSize);
  const [first, ...others] = evaluation.template;
  const more = others.length > 0 ? ` and ${others.length} more` : "";
  return [
    `zero-shot: each class as "${oneLine(first!, TEMPLATE_CHARS)}"${more} (--template)`,
    ...scoresText(classificationScores, evaluation, 1),
  ];
}

/** Base and adapter under each other, and the details below them. */
function scoresText<S>(
  { columns, details }: ScoreTable<S>,
  { base, adapter }: { base: S | null; adapter: S | null },
  batchSize: number,
): string[] {
  const row = (name: string, score: S | null) => [name, ...columns.map(([, cell]) => (score ? cell(score) : "—"))];
  const rows = [["", ...columns.map(([title]) => title)], row("base", base)];
  const below = details?.({ base, adapter, batchSize }) ?? [];
  return [
    table(adapter ? [...rows, row("with the adapter", adapter)] : rows),
    ...below.map((part) => (typeof part === "string" ? part : table(part))),
  ];
}
