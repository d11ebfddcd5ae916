// Previews of texts that are continued: examples with their trained tokens marked, what is lost, what a model would not learn.
import type { MadeExample } from "../../data/examples.ts";
import { IGNORE } from "../../data/types.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import {
  continuedStats,
  type DatasetStats,
  duplicateWarnings,
  fileWarnings,
  type ShownExample,
  targetsOf,
  textParts,
  truncationWarning,
} from "../common/preview.ts";
import type { PreviewContext, PreviewedFiles, Previewing } from "../task.ts";

/** Among how many last trained tokens one that stops generation is looked for. */
const END_TOKENS = 3;

export async function textPreview({ base, data, ids: withIds }: PreviewContext): Promise<Previewing> {
  const tokenizer = await base.tokenizer();
  const { maxLength, imageSpans = () => [] } = data;
  return {
    stats: (source) => textStats(source, tokenizer, maxLength),
    /** Truncated to the maximum length; together the pieces of its text are what the tokens decode to. */
    async show({ place, whole }): Promise<ShownExample> {
      const kept = { ids: whole.ids.slice(0, maxLength), labels: whole.labels.subarray(0, maxLength) };
      const tokens = kept.ids.length;
      const images = imageSpans(whole).filter(({ to }) => to <= tokens);
      return {
        place,
        tokens,
        trained: targetsOf(kept.labels),
        cut: whole.ids.length - tokens,
        parts: tokenizer.limited(() => textParts(tokenizer, kept, [0, tokens], images)),
        ...(withIds && { ids: [...kept.ids] }),
      };
    },
    warnings: textWarnings,
  };
}

/** Counts that records are added to. */
function textStats(source: string, { eosIds }: Pick<Tokenizer, "eosIds">, maxLength: number) {
  const { counted, sums, lengths, drop, total } = continuedStats(source, "text");
  return {
    add({ record, place, whole: { ids, labels }, imagesEnd = 0 }: MadeExample): void {
      counted.kind = "messages" in record ? "messages" : "prompt" in record ? "completion" : "text";
      sums.records++;
      lengths.push(ids.length);
      const all = targetsOf(labels);
      const kept = imagesEnd > maxLength ? 0 : targetsOf(labels.subarray(0, maxLength));
      if (ids.length > maxLength) {
        sums.truncated++;
        counted.cutTokens += ids.length - maxLength;
        counted.cutTrained += all - kept;
      }
      if (kept === 0) {
        drop(all === 0 ? "empty" : "cut", place);
        return;
      }
      counted.examples++;
      sums.tokens += Math.min(ids.length, maxLength);
      counted.trained += kept;
      // A template may mark the white space after the end token too.
      const end = labels.filter((label) => label !== IGNORE).slice(-END_TOKENS);
      if (ids.length <= maxLength && !end.some((id) => eosIds.includes(id))) counted.endless++;
    },
    total,
  };
}

function textWarnings(found: PreviewedFiles): string[] {
  const { maxLength, trainOn } = found;
  const ofFile = (file: DatasetStats) => {
    const { kind, examples, trained, dropped, endless } = file.continued!;
    if (examples === 0) {
      const why = dropped.cut > 0 ? `raise the maximum length, which is ${maxLength}` : "check that the answers are not empty";
      return [`no token is trained, and a run would refuse the data; ${why}`];
    }
    return [
      kind !== "text" &&
        trainOn !== "all" &&
        trained === file.tokens - examples &&
        "every token is trained, prompts included; check the chat template's marks, or that prompts are not empty",
      kind === "messages" &&
        trainOn !== "all" &&
        endless > 0 &&
        `${endless} of ${examples} examples end with no token that stops generation, so the model would not learn to stop; check eos_token and the chat template`,
      truncationWarning(file, maxLength, "examples", "the end of their answers is lost"),
    ];
  };
  return [...fileWarnings(found, ofFile), ...duplicateWarnings(found)];
}
