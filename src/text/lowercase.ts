// Lower case as Hugging Face's tokenizers makes it: a character at a time. JavaScript looks at what is around a character as well, which
// differs for one: a capital sigma at the end of a word becomes ς, where the tokenizers' is σ.

type Json = Record<string, unknown>;

/** Whether a tokenizer.json's normalizer makes text lower case. */
export function lowercases(normalizer: unknown): boolean {
  if (typeof normalizer !== "object" || normalizer === null) return false;
  const { type, lowercase, normalizers } = normalizer as Json;
  if (type === "Sequence") return [normalizers].flat().some(lowercases);
  return type === "Lowercase" || (type === "BertNormalizer" && lowercase === true);
}

/** `text` with the capitals made small that JavaScript would make small in another way. */
export const withSmallSigma = (text: string): string => text.replaceAll("Σ", "σ");
