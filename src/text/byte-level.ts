// What byte-level pre-tokenizers of @huggingface/tokenizers make of a word, remembered: they write each byte by itself, and words come again.

/** The pre-tokenizer ByteLevel, as far as it is used. */
interface ByteLevel {
  add_prefix_space: boolean;
  use_regex: boolean;
  pattern: RegExp;
  byte_encoder: Readonly<Record<number, string>>;
  pre_tokenize_text(text: string): string[];
}

/** Longer pieces hardly come again. */
const MAX_CHARS = 64;
const MAX_WORDS = 1 << 16;

/** Has the byte-level pre-tokenizers of an engine, one alone or some in a sequence, remember words. */
export function rememberWords({ pre_tokenizer: own }: { pre_tokenizer?: unknown }): void {
  const { tokenizers = [own] } = (own ?? {}) as { tokenizers?: unknown[] };
  for (const one of tokenizers) if (isByteLevel(one)) one.pre_tokenize_text = remembering(one);
}

const isByteLevel = (one: unknown): one is ByteLevel =>
  typeof one === "function" && "byte_encoder" in one && "use_regex" in one && "pattern" in one && "pre_tokenize_text" in one;

function remembering(own: ByteLevel): (text: string) => string[] {
  const encoder = new TextEncoder();
  const known = new Map<string, string>();
  const written = (word: string): string => {
    const before = known.get(word);
    if (before !== undefined) return before;
    const made = Array.from(encoder.encode(word), (byte) => own.byte_encoder[byte]!).join("");
    if (word.length > MAX_CHARS) return made;
    if (known.size >= MAX_WORDS) known.clear();
    known.set(word, made);
    return made;
  };
  return (text) => {
    const given = own.add_prefix_space && !text.startsWith(" ") ? ` ${text}` : text;
    const words = own.use_regex ? (given.match(own.pattern) ?? []) : [given];
    return words.map(written);
  };
}
