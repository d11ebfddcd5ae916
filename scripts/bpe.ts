// Learns a byte-level BPE vocabulary (Sennrich et al. 2016; GPT-2's byte alphabet and splitting), for fixtures of a few hundred tokens.

/** GPT-2's split into words, contractions, numbers, punctuation and space. */
const SPLIT = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The printable character that stands for each byte (bytes_to_unicode of GPT-2). */
function byteAlphabet(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCodePoint(printable ? byte : next++);
  });
}

/** A vocabulary of `size`: the special tokens, the 256 bytes, then the most frequent merges of `texts`. */
export function trainBpe(texts: readonly string[], special: readonly string[], size: number) {
  const alphabet = byteAlphabet();
  const words = new Map<string, { parts: string[]; count: number }>();
  for (const word of texts.flatMap((text) => text.match(SPLIT) ?? [])) {
    const known = words.get(word);
    if (known) known.count++;
    else words.set(word, { parts: Array.from(new TextEncoder().encode(word), (byte) => alphabet[byte]!), count: 1 });
  }
  const tokens = [...special, ...[...alphabet].sort()];
  const merges: [string, string][] = [];
  while (tokens.length < size) {
    const pairs = new Map<string, number>();
    for (const { parts, count } of words.values()) {
      for (let i = 1; i < parts.length; i++) {
        const pair = `${parts[i - 1]} ${parts[i]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + count);
      }
    }
    const [best] = [...pairs].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
    if (best === undefined) throw new Error(`the texts have only ${tokens.length} tokens in them`);
    const [left, right] = best[0].split(" ") as [string, string];
    merges.push([left, right]);
    tokens.push(left + right);
    for (const word of words.values()) word.parts = merged(word.parts, left, right);
  }
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges };
}

function merged(parts: readonly string[], left: string, right: string): string[] {
  const out: string[] = [];
  for (const part of parts) {
    if (part === right && out.at(-1) === left) out[out.length - 1] = left + right;
    else out.push(part);
  }
  return out;
}
