// Previews of pairs of texts: those of records, and what spoils in-batch negatives.
import { fieldsKey } from "../../data/duplicates.ts";
import type { MadeExample } from "../../data/examples.ts";
import { grouped } from "../../units.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { PreviewContext, Previewing } from "../task.ts";
import type { TextPair } from "./records.ts";

/** What is found of the pairs of a file. */
function pairStats() {
  const texts = { anchor: new Set<number>(), positive: new Set<number>() };
  const found = { repeated: 0, beyond: 0 };
  return {
    found,
    add({ record }: MadeExample): void {
      const { anchor, positive, score } = record as unknown as TextPair;
      if (score !== undefined) {
        if (Math.abs(score) > 1) found.beyond++;
        return;
      }
      const keys = { anchor: fieldsKey({ anchor }, []).record, positive: fieldsKey({ positive }, []).record };
      if (texts.anchor.has(keys.anchor) || texts.positive.has(keys.positive)) found.repeated++;
      texts.anchor.add(keys.anchor);
      texts.positive.add(keys.positive);
    },
  };
}

export async function pairPreview(context: PreviewContext): Promise<Previewing> {
  const records = await recordPreview(context);
  const files: ReturnType<typeof pairStats>["found"][] = [];
  return {
    ...records,
    stats(source) {
      const [all, pairs] = [records.stats(source), pairStats()];
      files.push(pairs.found);
      return {
        ...all,
        add(made) {
          all.add(made);
          pairs.add(made);
        },
      };
    },
    warnings(found) {
      const { repeated, beyond } = files[0]!; // of the training records
      const of = (count: number) => `${found.train.source}: ${grouped(count)} of ${grouped(found.train.records)}`;
      return [
        ...records.warnings(found),
        repeated > 0 &&
          `${of(repeated)} pairs have an anchor or a positive of an earlier one; in the same batch each counts as wrong for the other`,
        beyond > 0 && `${of(beyond)} scores are not from -1 to 1; to train on them, bring them into the range of cosines`,
      ].filter((one) => one !== false);
    },
  };
}
