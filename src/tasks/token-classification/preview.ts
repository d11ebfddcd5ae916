// Previews of tagged texts: words with their tags, and how many words have each.
import { encodeWords } from "../../text/pairs.ts";
import { recordPreview } from "../common/record-preview.ts";
import type { PreviewContext, Previewing } from "../task.ts";

/** A text in words, and the tag of each, by name or number. */
export interface TaggedText {
  tokens: string[];
  tags: string[];
}

export async function tagPreview(context: PreviewContext): Promise<Previewing> {
  const { base, data } = context;
  const preview = await recordPreview(context);
  const tokenizer = await base.tokenizer();
  const classes = data.classes!;
  return {
    ...preview,
    stats(source) {
      const stats = preview.stats(source);
      return {
        ...stats,
        total(file) {
          const total = stats.total(file);
          return { ...total, words: total.classes!.reduce((sum, { count }) => sum + count, 0) };
        },
      };
    },
    async show(made) {
      const { tokens, tags } = made.record as TaggedText;
      const { firsts } = encodeWords(tokenizer, tokens, data.maxLength);
      const label = (tag: string) => classes.labels()[classes.placeOf(classes.numberOf(tag, made.place))]!;
      const words = tokens.map((text, i) => ({ text, label: label(tags[i]!) })).filter((_, i) => firsts[i]! >= 0);
      return { ...(await preview.show(made)), words };
    },
  };
}
