// A GGUF file's vocabulary as tokenizer.json and tokenizer_config.json: what llama.cpp makes of the metadata (llama-vocab.cpp), in the
// parts of Hugging Face's tokenizers (Transformers' integrations/gguf).
import { LowrankError } from "../../errors.ts";
import { quote } from "../json.ts";
import type { Metadata } from "./metadata.ts";

/** ggml's kinds of tokens that are more than text. */
export const CONTROL = 3;
export const USER_DEFINED = 4;

export type Part = Record<string, unknown>;
const split = (regex: string): Part => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
const byteLevel = (expression: boolean): Part => {
  return { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: expression };
};

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/** The expression of Llama 3 and Qwen; they differ in how many digits are together. */
const words = (digits: string): string =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
/** That of Tekken and GPT-4o: words begin anew at a capital. */
const cased = (after: string, digits: string): string => {
  const [before, upper, lower] = [
    "[^\\r\\n\\p{L}\\p{N}]?",
    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]",
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]",
  ];
  const rest = "[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  return `${before}${upper}*${lower}+${after}|${before}${upper}+${lower}*${after}|${digits}| ?${rest}`;
};
const GPT_2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)";

/** How a byte-level vocabulary's text is cut into words. */
interface PreTokenizer {
  names: string[];
  parts: Part[];
  normalizer?: Part;
  /** A word that is a token is that token, whatever the merges say. */
  ignoreMerges?: boolean;
  addBos?: boolean;
}

export const preTokenizers: PreTokenizer[] = [
  {
    names: ["gpt-2", "phi-2", "mpt", "olmo", "exaone4", "gigachat", "modern-bert", "a.x-4.0", "mellum", "trillion"],
    parts: [byteLevel(true)],
  },
  {
    names: ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
    parts: [{ type: "Digits", individual_digits: true }, byteLevel(true)],
  },
  {
    names: ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    parts: [split(words("\\p{N}{1,3}")), byteLevel(false)],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ["dbrx", "smaug-bpe"], parts: [split(words("\\p{N}{1,3}")), byteLevel(false)] },
  { names: ["qwen2", "megrez"], parts: [split(words("\\p{N}")), byteLevel(false)], normalizer: { type: "NFC" } },
  { names: ["deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan"], parts: [split(words("\\p{N}")), byteLevel(false)] },
  { names: ["tekken"], parts: [split(cased("", "\\p{N}")), byteLevel(false)], ignoreMerges: true, addBos: true },
  { names: ["gpt-4o", "llama4", "kanana2"], parts: [split(cased(`${CONTRACTIONS}?`, "\\p{N}{1,3}")), byteLevel(false)] },
  {
    names: ["deepseek-coder"],
    parts: [...["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"].map(split), byteLevel(false)],
  },
  {
    names: ["default"],
    parts: [...["[\\p{P}\\$\\+<=>\\^~\\|]+", GPT_2, "\\p{N}+", "[0-9][0-9][0-9]"].map(split), byteLevel(false)],
  },
];

/** Texts of tokens that end a turn, where control tokens have them (llama.cpp's list). */
const TURN_ENDS = new Set([
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|eom_id|>",
  "<EOT>",
]);

export interface GgufTokenizer {
  /** The object of tokenizer.json, which can be large. */
  tokenizer(): object;
  /** That of tokenizer_config.json, with the chat template. */
  config: object;
  /** Ids of special tokens by the names of config.json; those that end generation are a list. */
  ids: { bos_token_id?: number; eos_token_id?: number[]; pad_token_id?: number };
}

/** What a vocabulary's metadata do not say, and its architecture does. */
export interface VocabularyRules {
  /** The pre-tokenizer of byte-level BPE where the file names none. */
  pre?: string;
  /** SentencePiece's pieces lie in the order of their merges, which the scores do not say; runs of spaces are written as spaces. */
  inOrder?: boolean;
  /** Special tokens take the white space behind them along, but for these. */
  rightStrippedBut?: readonly string[];
}

/** What the metadata says of text; null if it has no vocabulary. */
export function ggufTokenizer(metadata: Metadata, path: string, rules: VocabularyRules = {}): GgufTokenizer | null {
  const refuse = (message: string, expected: string, got: string): never => {
    throw new LowrankError("gguf/tokenizer", message, {
      subject: path,
      expected,
      got,
      next: "Use the model's safetensors folder (it has tokenizer.json), or another GGUF file of the model.",
    });
  };
  const kind = metadata.text("tokenizer.ggml.model");
  if (kind === undefined || kind === "none" || kind === "no_vocab") return null;
  const tokens = metadata.required("tokenizer.ggml.tokens", metadata.texts("tokenizer.ggml.tokens"));
  const kinds = metadata.numbers("tokenizer.ggml.token_type") ?? [];
  const make = Object.hasOwn(models, kind)
    ? models[kind]!
    : refuse("the tokenizer is of a kind that can't be read", Object.keys(models).join(", "), quote(kind));
  const { defaults, addBos, parts } = make({ metadata, tokens, rules, refuse });
  const id = (name: string, key = name): number | undefined => {
    const given = metadata.number(`tokenizer.ggml.${key}_token_id`) ?? defaults[name];
    return given !== undefined && tokens[given] !== undefined ? given : undefined;
  };
  const ids = { bos: id("bos"), eos: id("eos"), unk: id("unk", "unknown"), pad: id("pad", "padding") };
  const isStripped = kind === "llama" && rules.rightStrippedBut !== undefined;
  const added = tokens.flatMap((content, i) => {
    if (content === "" || (kinds[i] !== CONTROL && kinds[i] !== USER_DEFINED)) return [];
    const rstrip = isStripped && !rules.rightStrippedBut!.includes(content);
    return [{ id: i, content, single_word: false, lstrip: false, rstrip, normalized: false, special: kinds[i] === CONTROL }];
  });
  const ends = added.filter(({ special, content }) => special && TURN_ENDS.has(content)).map((token) => token.id);
  const frame = [
    (metadata.flag("tokenizer.ggml.add_bos_token") ?? addBos) ? ids.bos : undefined,
    "text" as const,
    metadata.flag("tokenizer.ggml.add_eos_token") ? ids.eos : undefined,
  ].filter((part) => part !== undefined);
  const named = Object.entries(ids).flatMap(([name, value]) => (value === undefined ? [] : [[`${name}_token`, tokens[value]]]));
  const template = metadata.text("tokenizer.chat_template");
  return {
    tokenizer: () => ({
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      post_processor: frame.length > 1 ? templateProcessing(frame, tokens) : null,
      ...parts(),
    }),
    config: {
      clean_up_tokenization_spaces: false,
      ...Object.fromEntries(named),
      ...(template !== undefined && { chat_template: template }),
    },
    ids: {
      ...(ids.bos !== undefined && { bos_token_id: ids.bos }),
      eos_token_id: [...new Set([ids.eos, id("eot"), id("eom"), ...ends])].filter((one) => one !== undefined),
      ...(ids.pad !== undefined && { pad_token_id: ids.pad }),
    },
  };
}

/** Special tokens around a text, and around each of two. */
function templateProcessing(frame: readonly (number | "text")[], tokens: readonly string[]): object {
  const part = (text: "A" | "B", type: number) =>
    frame.map((one) =>
      one === "text" ? { Sequence: { id: text, type_id: type } } : { SpecialToken: { id: tokens[one], type_id: type } },
    );
  const specials = frame
    .filter((one) => one !== "text")
    .map((id) => [tokens[id], { id: tokens[id], ids: [id], tokens: [tokens[id]] }]);
  return {
    type: "TemplateProcessing",
    single: part("A", 0),
    pair: [...part("A", 0), ...part("B", 1)],
    special_tokens: Object.fromEntries(specials),
  };
}

interface Vocabulary {
  metadata: Metadata;
  tokens: readonly string[];
  rules: VocabularyRules;
  refuse: (message: string, expected: string, got: string) => never;
}

interface Model {
  parts(): Record<"model" | "normalizer" | "pre_tokenizer" | "decoder", Part | null>;
  /** Ids of special tokens where the metadata has none. */
  defaults: Record<string, number>;
  addBos: boolean;
}

const sequence = (key: string, parts: Part[]): Part => (parts.length === 1 ? parts[0]! : { type: "Sequence", [key]: parts });
const replaced = (from: string, content: string): Part => ({ type: "Replace", pattern: { String: from }, content });
const idsOf = (tokens: readonly string[]): Record<string, number> => {
  const ids: Record<string, number> = Object.create(null);
  for (const [id, token] of tokens.entries()) if (!(token in ids)) ids[token] = id;
  return ids;
};

/** The kinds of vocabulary, by tokenizer.ggml.model. */
const models: Record<string, (vocabulary: Vocabulary) => Model> = {
  /** Byte-level BPE. */
  gpt2({ metadata, tokens, rules, refuse }) {
    const name = metadata.text("tokenizer.ggml.pre") ?? rules.pre ?? "default";
    const row = preTokenizers.find(({ names }) => names.includes(name));
    if (!row) {
      const known = preTokenizers.flatMap(({ names }) => names).join(", ");
      return refuse("the tokenizer cuts text into words in a way that is not known", `tokenizer.ggml.pre: ${known}`, quote(name));
    }
    const merges = metadata.required("tokenizer.ggml.merges", metadata.texts("tokenizer.ggml.merges"));
    const { ignoreMerges = false, normalizer = null } = row;
    return {
      parts: () => ({
        model: { type: "BPE", vocab: idsOf(tokens), merges, unk_token: null, byte_fallback: false, ignore_merges: ignoreMerges },
        normalizer,
        pre_tokenizer: sequence("pretokenizers", row.parts),
        decoder: byteLevel(true),
      }),
      defaults: {},
      addBos: row.addBos ?? false,
    };
  },
  /** SentencePiece's BPE: a piece's score is the rank of the merge that makes it. */
  llama({ metadata, tokens, rules: { inOrder = false }, refuse }) {
    const pieces = inOrder ? tokens.map((token) => (/^ {2,}$/.test(token) ? "▁".repeat(token.length) : token)) : tokens;
    const scores = inOrder ? undefined : metadata.required("tokenizer.ggml.scores", metadata.numbers("tokenizer.ggml.scores"));
    if (scores && scores.length < pieces.length) {
      refuse("the tokenizer has fewer scores than tokens", `${pieces.length} scores`, `${scores.length}`);
    }
    const cuts = pieces.reduce((sum, { length }) => sum + length ** 2, 0);
    if (cuts > MAX_CUTS)
      refuse("the tokenizer's tokens are too long", "tokens of a few characters", `${cuts} characters to cut them`);
    const prefix = metadata.flag("tokenizer.ggml.add_space_prefix") ?? true;
    const unknown = metadata.number("tokenizer.ggml.unknown_token_id") ?? 0;
    return {
      parts() {
        const vocab = idsOf(pieces);
        const merges = mergesOf(pieces, vocab, (id) => (scores ? scores[id]! : -id));
        const fallback = { unk_token: pieces[unknown] ?? null, fuse_unk: true, byte_fallback: true, ignore_merges: false };
        const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
        return {
          model: { type: "BPE", vocab, merges, ...fallback },
          normalizer: sequence("normalizers", [...(prefix ? [{ type: "Prepend", prepend: "▁" }] : []), replaced(" ", "▁")]),
          pre_tokenizer: null,
          decoder: sequence("decoders", [
            replaced("▁", " "),
            { type: "ByteFallback" },
            { type: "Fuse" },
            ...(prefix ? [strip] : []),
          ]),
        };
      },
      defaults: { bos: 1, eos: 2, unk: 0 },
      addBos: true,
    };
  },
};

/** Characters that are read to look for the parts of all pieces: their lengths squared. Vocabularies in use need 50 million. */
const MAX_CUTS = 2 ** 31;

/** Pairs of pieces that make a piece, the best first: by the score of what they make, then as Transformers' `generate_merges`. */
function mergesOf(pieces: readonly string[], vocab: Record<string, number>, score: (id: number) => number): [string, string][] {
  const merges: { left: string; right: string; score: number }[] = [];
  for (const [id, piece] of pieces.entries()) {
    if (vocab[piece] !== id) continue;
    const pairs: [number, number][] = [];
    for (let cut = 1; cut < piece.length; cut++) {
      const [left, right] = [vocab[piece.slice(0, cut)], vocab[piece.slice(cut)]];
      if (left !== undefined && right !== undefined) pairs.push([left, right]);
    }
    pairs.sort(([a, b], [c, d]) => a - c || b - d);
    for (const [left, right] of pairs) merges.push({ left: pieces[left]!, right: pieces[right]!, score: score(id) });
  }
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length);
  return merges.map(({ left, right }) => [left, right]);
}
