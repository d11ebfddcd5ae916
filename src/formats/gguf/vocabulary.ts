// tokenizer.json as a GGUF file's metadata: the inverse of tokenizer.ts, as convert_hf_to_gguf.py's set_vocab writes them.
import { LowrankError } from "../../errors.ts";
import { isObject, type JsonObject, quote } from "../json.ts";
import { CONTROL, type Part, preTokenizers, USER_DEFINED } from "./tokenizer.ts";
import type { GgufEntry } from "./writer.ts";

/** ggml's other kinds of tokens. */
const NORMAL = 1;
const UNKNOWN = 2;
const UNUSED = 5;
const BYTE = 6;
/** The score of a piece that no merge makes. */
const NO_MERGE = -1e6;

/** What is said of a vocabulary beside tokenizer.json. */
export interface SpecialTokens {
  bos: number | undefined;
  eos: number | undefined;
  pad: number | undefined;
  /** Special tokens around a text, as the tokenizer adds them. */
  addsBos: boolean;
  addsEos: boolean;
  template: string | undefined;
}

/**
 * The metadata of a vocabulary that has `vocabSize` rows in the embedding. `subject` is what errors call tokenizer.json. Fails with
 * `gguf/tokenizer` for one that llama.cpp has no kind for.
 */
export function vocabularyKeys(tokenizer: JsonObject, vocabSize: number, special: SpecialTokens, subject: string): GgufEntry[] {
  const refuse = (message: string, expected: string, got: string): never => {
    const next = "This tokenizer cannot be written to a GGUF file; use the model's folder.";
    throw new LowrankError("gguf/tokenizer", message, { subject, expected, got, next });
  };
  const model = isObject(tokenizer["model"]) ? tokenizer["model"] : {};
  const vocab = isObject(model["vocab"]) ? (model["vocab"] as Record<string, number>) : null;
  const merges = Array.isArray(model["merges"]) ? (model["merges"] as (string | [string, string])[]) : null;
  if (!vocab || !merges || (model["type"] ?? "BPE") !== "BPE") {
    return refuse(
      "the tokenizer is of a kind that llama.cpp does not have",
      "byte-level BPE, or SentencePiece's BPE",
      kindOf(model),
    );
  }
  const added = (Array.isArray(tokenizer["added_tokens"]) ? tokenizer["added_tokens"] : []).filter(isObject);
  const tokens = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const kinds = new Array<number>(vocabSize).fill(UNUSED);
  const place = (token: string, id: number, kind: number): void => {
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      refuse("a token has no row in the embedding", `an id below ${vocabSize}`, `${quote(token)}: ${id}`);
    }
    tokens[id] = token;
    kinds[id] = kind;
  };
  const isSentencePiece = model["byte_fallback"] === true;
  const unknown = typeof model["unk_token"] === "string" ? vocab[model["unk_token"]] : undefined;
  for (const [token, id] of Object.entries(vocab)) {
    const isByte = isSentencePiece && /^<0x[\dA-F]{2}>$/.test(token);
    place(token, id, isByte ? BYTE : NORMAL);
  }
  for (const { content, id, special: isSpecial } of added) {
    place(String(content), Number(id), isSpecial ? CONTROL : USER_DEFINED);
  }
  if (isSentencePiece && unknown !== undefined) kinds[unknown] = UNKNOWN;
  const own = isSentencePiece ? pieces(tokenizer, tokens, merges) : byteLevelKeys(tokenizer, model, merges, refuse);
  return [
    ...own,
    ["tokenizer.ggml.tokens", "strings", tokens],
    ["tokenizer.ggml.token_type", "int32s", kinds],
    ...idKey("bos", special.bos),
    ...idKey("eos", special.eos),
    ...(isSentencePiece ? idKey("unknown", unknown) : []),
    ...idKey("padding", special.pad),
    ["tokenizer.ggml.add_bos_token", "bool", special.addsBos],
    ["tokenizer.ggml.add_eos_token", "bool", special.addsEos],
    ...(special.template === undefined ? [] : [["tokenizer.chat_template", "string", special.template] satisfies GgufEntry]),
  ];
}

const kindOf = (model: JsonObject): string => quote(String(model["type"] ?? "none"));

const idKey = (name: string, id: number | undefined): GgufEntry[] =>
  id === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, "uint32", id]];

const pairOf = (merge: string | readonly string[]): readonly string[] => (typeof merge === "string" ? merge.split(" ") : merge);

/** Keys of byte-level BPE. The way that text is cut into words has to be one that llama.cpp has a name for. */
function byteLevelKeys(
  tokenizer: JsonObject,
  model: JsonObject,
  merges: readonly (string | [string, string])[],
  refuse: (message: string, expected: string, got: string) => never,
): GgufEntry[] {
  const wanted = shape(tokenizer["normalizer"], tokenizer["pre_tokenizer"]);
  const same = preTokenizers.filter(({ parts, normalizer = null }) => shape(normalizer, parts) === wanted);
  const row = same.find(({ ignoreMerges = false }) => ignoreMerges === (model["ignore_merges"] ?? false)) ?? same[0];
  if (!row) {
    const known = preTokenizers.flatMap(({ names }) => names).join(", ");
    return refuse("llama.cpp has no name for the way that the tokenizer cuts text into words", known, wanted);
  }
  return [
    ["tokenizer.ggml.model", "string", "gpt2"],
    ["tokenizer.ggml.pre", "string", row.names[0]!],
    ["tokenizer.ggml.merges", "strings", merges.map((merge) => pairOf(merge).join(" "))],
  ];
}

/** A normalizer and a pre-tokenizer as a text that is equal where they do the same. */
function shape(normalizer: unknown, preTokenizer: unknown): string {
  const parts = (given: unknown): unknown[] => {
    if (Array.isArray(given)) return given.flatMap(parts);
    if (!isObject(given)) return [];
    if (given["type"] === "Sequence") return parts(given["pretokenizers"] ?? given["normalizers"]);
    const { trim_offsets: _, use_regex: regex = true, add_prefix_space: prefix = false, ...rest } = given as Part;
    return [rest["type"] === "ByteLevel" ? { ...rest, use_regex: regex, add_prefix_space: prefix } : sortedKeys(rest)];
  };
  return JSON.stringify([parts(normalizer), parts(preTokenizer)]);
}

const sortedKeys = (part: Part): Part => Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));

/** Keys of SentencePiece's BPE: a piece's score is the rank of the first merge that makes it. */
function pieces(tokenizer: JsonObject, tokens: readonly string[], merges: readonly (string | [string, string])[]): GgufEntry[] {
  const rank = new Map<string, number>();
  for (const [i, merge] of merges.entries()) {
    const made = pairOf(merge).join("");
    if (!rank.has(made)) rank.set(made, i);
  }
  const text = JSON.stringify([tokenizer["normalizer"], tokenizer["pre_tokenizer"]]);
  const isPrefixed = /"type":"Prepend"/.test(text) || /"prepend_scheme":"(first|always)"|"add_prefix_space":true/.test(text);
  return [
    ["tokenizer.ggml.model", "string", "llama"],
    ["tokenizer.ggml.pre", "string", "default"],
    ["tokenizer.ggml.scores", "float32s", tokens.map((token) => -(rank.get(token) ?? -NO_MERGE))],
    ["tokenizer.ggml.add_space_prefix", "bool", isPrefixed],
  ];
}
