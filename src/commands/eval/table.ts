// The scores of an evaluation as tables, by what the task measures.

import { oneLine, table } from "../../terminal/terminal.ts";
import { grouped } from "../../units.ts";
import type { Evaluation } from "./evaluate.ts";
import type { ClassifierScore, ContrastiveScore, Score } from "./measures.ts";

/** Classes and confusions that are shown: the worst. */
const WORST = 5;
/** Of a label. */
const LABEL_CHARS = 40;

/** 0.925 → "92.5 %". */
export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** What is told of an evaluation: tables and lines, in their order. */
export function evaluationText(evaluation: Evaluation): string[] {
  switch (evaluation.task) {
    case "causal-lm":
      return [
        scores<Score>(["loss", "perplexity"], evaluation, ({ loss, perplexity }) => [loss.toFixed(4), perplexity.toFixed(2)]),
      ];
    case "contrastive":
      return contrastiveText(evaluation);
    case "zero-shot":
      return [`zero-shot: each class as ${templatesText(evaluation.template)} (--template)`, ...classifierText(evaluation)];
    default:
      return classifierText(evaluation);
  }
}

const templatesText = ([first, ...others]: readonly string[]): string =>
  `"${oneLine(first!, LABEL_CHARS)}"${others.length > 0 ? ` and ${others.length} more` : ""}`;

type OfClassifier = { base: ClassifierScore | null; adapter: ClassifierScore | null };

const classifierText = ({ base, adapter }: OfClassifier): string[] => [
  scores<ClassifierScore>(["loss", "accuracy", "macro F1"], { base, adapter }, ({ loss, accuracy, macroF1 }) => [
    loss.toFixed(4),
    percent(accuracy),
    macroF1.toFixed(4),
  ]),
  ...(base ? [] : ["The base has no head of its own for these classes."]),
  ...classesText((adapter ?? base)!, adapter !== null),
];

/** Base and adapter under each other. */
function scores<S>(
  names: readonly string[],
  { base, adapter }: { base: S | null; adapter: S | null },
  cells: (score: S) => string[],
): string {
  const row = (name: string, score: S | null) => [name, ...(score ? cells(score) : names.map(() => "—"))];
  const rows = [["", ...names], row("base", base)];
  return table(adapter ? [...rows, row("with the adapter", adapter)] : rows);
}

function contrastiveText(evaluation: Extract<Evaluation, { task: "contrastive" }>): string[] {
  const { batchSize, base } = evaluation;
  const shares = (recall: ContrastiveScore["imageToText"]) => Object.values(recall).map(percent);
  const found = (direction: "imageToText" | "textToImage", title: string) =>
    `${title}\n${scores<ContrastiveScore>(["recall@1", "recall@5", "recall@10"], evaluation, (score) => shares(score[direction]))}`;
  return [
    scores<ContrastiveScore>(["loss"], evaluation, ({ loss }) => [loss.toFixed(4)]),
    `The loss is that of pairs among ${batchSize} (--batch-size); it grows with their number.`,
    found("imageToText", `images that find a text of theirs, of ${grouped(base.images)}, among ${grouped(base.texts)} texts`),
    found("textToImage", `texts that find their image, of ${grouped(base.texts)}, among ${grouped(base.images)} images`),
  ];
}

/** The classes that are told worst, and what is most often taken for what. */
function classesText({ classes, confusions, count, correct }: ClassifierScore, isAdapter: boolean): string[] {
  const label = (text: string) => oneLine(text, LABEL_CHARS);
  const worst = classes
    .filter(({ support }) => support > 0)
    .sort((a, b) => a.f1 - b.f1)
    .slice(0, WORST);
  const rows = worst.map(({ label: name, precision, recall, f1, support }) => [
    label(name),
    ...[precision, recall, f1].map((share) => share.toFixed(4)),
    grouped(support),
  ]);
  const wrong = confusions.filter(({ expected, predicted }) => expected !== predicted).slice(0, WORST);
  return [
    `${grouped(correct)} of ${grouped(count)} right${isAdapter ? ", with the adapter" : ""}; ${rows.length === classes.length ? "its classes" : "the worst classes"}:`,
    table([["", "precision", "recall", "F1", "examples"], ...rows]),
    ...(wrong.length === 0 ? [] : ["taken for another most often:"]),
    ...wrong.map(({ expected, predicted, count: times }) => {
      return `  ${label(classes[expected]!.label)} for ${label(classes[predicted]!.label)}: ${grouped(times)}`;
    }),
  ];
}
