// Previews of preferences: the prompt and both answers with their trained tokens marked, counts of a file, what to look at first.
import type { MadeExample } from "../../data/examples.ts";
import { type Example, IGNORE } from "../../data/types.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { grouped } from "../../units.ts";
import {
  continuedStats,
  duplicateWarnings,
  fileWarnings,
  type ShownExample,
  targetsOf,
  textParts,
  truncationWarning,
} from "../common/preview.ts";
import type { PreviewContext, PreviewedFiles, Previewing } from "../task.ts";
import { answersOf } from "./data.ts";
import type { Preference } from "./records.ts";

export async function preferencePreview({ base, ids }: PreviewContext): Promise<Previewing> {
  const tokenizer = await base.tokenizer();
  return {
    stats: pairStats,
    show: async (made) => show(made, tokenizer, ids),
    warnings: pairWarnings,
  };
}

function pairStats(source: string) {
  const { counted, sums, lengths, drop, total } = continuedStats(source, "pair");
  counted.equal = 0;
  return {
    add({ record, place, whole, isCut = false }: MadeExample): void {
      sums.records++;
      const { chosen, rejected } = record as Preference;
      if (JSON.stringify(chosen) === JSON.stringify(rejected)) counted.equal!++;
      if (isCut) sums.truncated++;
      if (whole.targets === 0) {
        drop(isCut ? "cut" : "empty", place);
        return;
      }
      lengths.push(...answersOf(whole).map((text) => text.ids.length));
      counted.examples++;
      counted.trained += targetsOf(whole.labels);
      sums.tokens += whole.ids.length;
    },
    total,
  };
}

/** What the prompt, the chosen and the rejected answer decode to, truncated to the maximum length. */
function show({ place, whole, isCut = false }: MadeExample, tokenizer: Tokenizer, withIds: boolean): ShownExample {
  const answers = answersOf(whole);
  const first = answers.map(({ labels }) => labels.findIndex((label) => label !== IGNORE));
  const border = Math.min(...first.map((place, i) => (place < 0 ? answers[i]!.ids.length : place)));
  const partsOf = (answer: Example, from: number, to: number) => textParts(tokenizer, answer, [from, to]);
  return {
    place,
    tokens: whole.ids.length,
    trained: targetsOf(whole.labels),
    isCut,
    texts: tokenizer.limited(() => [
      { name: "prompt", parts: partsOf(answers[0], 0, border) },
      ...answers.map((answer, i) => ({ name: ["chosen", "rejected"][i]!, parts: partsOf(answer, border, answer.ids.length) })),
    ]),
    ...(withIds && { ids: [...whole.ids] }),
  };
}

const pairWarnings = (found: PreviewedFiles): string[] => [
  ...fileWarnings(found, (file) => {
    const { equal = 0, examples } = file.continued!;
    return [
      examples === 0 && "no pair has trained tokens in both answers, and a run would refuse the data; raise the maximum length",
      equal > 0 && `${grouped(equal)} of ${grouped(file.records)} pairs have equal answers, from which nothing is learnt`,
      truncationWarning(file, found.maxLength, "pairs", "the end of an answer is lost"),
    ];
  }),
  ...duplicateWarnings(
    found,
    (count) => `${count === 1 ? "1 pair is" : `${grouped(count)} pairs are`} there the other way round too`,
  ),
];
