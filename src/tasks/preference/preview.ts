// Previews of preferences: the prompt and both answers with their trained tokens marked, counts of a file, what to look at first.
import type { MadeExample } from "../../data/examples.ts";
import { type Example, IGNORE } from "../../data/types.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { grouped } from "../../units.ts";
import { continuedStats, type ShownExample, sharedWarning, targetsOf, textParts } from "../common/preview.ts";
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
  const partsOf = ({ ids, labels }: Example, from: number, to: number) => {
    const { parts, addTokens } = textParts(tokenizer);
    if (to > from) addTokens(ids, (i) => labels[i] !== IGNORE, from, to);
    return parts;
  };
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

function pairWarnings(found: PreviewedFiles): string[] {
  const { maxLength, train, evaluation, duplicates } = found;
  const warnings: string[] = [];
  for (const { source, records, truncated, continued } of evaluation === null ? [train] : [train, evaluation]) {
    const { equal = 0, examples } = continued!;
    if (records === 0) warnings.push(`${source}: there are no records, and a run would refuse the file`);
    else if (examples === 0)
      warnings.push(
        `${source}: no pair has trained tokens in both answers, and a run would refuse the data; raise the maximum length`,
      );
    if (equal > 0)
      warnings.push(`${source}: ${grouped(equal)} of ${grouped(records)} pairs have equal answers, from which nothing is learnt`);
    if (truncated > records / 10)
      warnings.push(
        `${source}: ${grouped(truncated)} of ${grouped(records)} pairs are truncated at ${maxLength} tokens, and the end of an answer is lost`,
      );
  }
  const { contradicting } = duplicates;
  if (contradicting > 0) {
    const pairs = contradicting === 1 ? "1 pair is" : `${grouped(contradicting)} pairs are`;
    warnings.push(`${train.source}: ${pairs} there the other way round too; one of both is wrong`);
  }
  return [...warnings, ...sharedWarning(found)];
}
