// A checkpoint's tokenizer over @huggingface/tokenizers; which file decides what follows Transformers' tokenization_utils_base.py.
import { Tokenizer as HubTokenizer } from "@huggingface/tokenizers";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { isObject, type JsonObject, readJsonObject, readText } from "../formats/json.ts";
import { rememberWords } from "./byte-level.ts";
import { type FramePart, frameOf } from "./frames.ts";
import { MAX_TEXT_MS, noTimeLimit, type TimeLimit } from "./limit.ts";
import type { ChatTemplate } from "./template.ts";
import { checkSizes, encodingBound, expressionsOf, MAX_INNER_CHARS } from "./tokenizer-bounds.ts";

/** Largest token id accepted: an order of magnitude above the largest vocabularies (256 k), small enough to index by. */
export const MAX_TOKEN_ID = (1 << 22) - 1;

const isTokenId = (id: unknown): id is number => Number.isInteger(id) && Number(id) >= 0 && Number(id) <= MAX_TOKEN_ID;

/** Tokens held back by a StreamDecoder while the text ends inside a character (UTF-8 needs 4 bytes, so 4 byte tokens). */
const MAX_HELD_TOKENS = 16;

const SPECIAL_NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] as const;

/** Kinds of vocabulary; files of before 2020 name none. */
const MODEL_TYPES: unknown[] = ["BPE", "WordPiece", "Unigram", "WordLevel", undefined];

/** What is used of @huggingface/tokenizers (its type declarations do not resolve under NodeNext). */
interface Engine {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[]; tokens: string[] };
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

/** Text to token ids and back, exactly as the checkpoint's own fast tokenizer does it. */
export interface Tokenizer {
  /** Token ids of `text`. `addSpecialTokens` (default true) adds what the post-processor adds, such as a BOS. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Int32Array;
  /** Text of `ids`; ids outside the vocabulary are skipped, special tokens too if asked (default false). */
  decode(ids: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string;
  tokenToId(token: string): number | undefined;
  /** The special tokens around a text, or around a `pair` of texts, as the post-processor adds them. */
  frame(pair: boolean): readonly FramePart[];
  /** Whether texts that are too long lose their beginning (tokenizer_config.json: truncation_side), not their end. */
  readonly cutsLeft: boolean;
  idToToken(id: number): string | undefined;
  /** A token that tokenizer_config.json has under a name of the model's own, such as `fake_image_token`. */
  namedToken(name: string): string | undefined;
  /** One more than the largest token id: the fewest rows the embedding must have. */
  readonly vocabSize: number;
  /** The token that ends a text, appended to training targets. */
  readonly eosId: number | undefined;
  /** Every token that stops generation: `eosId` and generation_config.json's list. */
  readonly eosIds: readonly number[];
  readonly bosId: number | undefined;
  /** Fills batches up; the EOS or 0 where the checkpoint names none (padding is masked, so its value is free). */
  readonly padId: number;
  readonly specialIds: ReadonlySet<number>;
  /** The chat template, where the checkpoint has one. */
  readonly template?: ChatTemplate;
  /**
   * Runs `work`, which encodes and decodes many times, under one time limit instead of one for each call. `tooSlow` is the
   * error where something else than the tokenizer is at work.
   */
  limited<T>(work: () => T, tooSlow?: () => LowrankError): T;
}

/**
 * Reads the tokenizer of a checkpoint folder: tokenizer.json, and where present tokenizer_config.json,
 * special_tokens_map.json, generation_config.json and chat_template.jinja. Its expressions are a stranger's: `timeLimit`
 * holds over building it, and over each text.
 * @throws LowrankError `tokenizer/missing`, `tokenizer/malformed`, `tokenizer/limit`, `json/…` and `text/…` for files that
 * are no JSON. Its functions throw `tokenizer/slow`, `tokenizer/limit` and `tokenizer/malformed`.
 */
export async function loadTokenizer(files: Files, folder: string, timeLimit: TimeLimit = noTimeLimit): Promise<Tokenizer> {
  const path = `${folder}/tokenizer.json`;
  if (!(await files.exists(path))) throw await missing(files, folder);
  const json = await readJsonObject(files, path);
  const configPath = `${folder}/tokenizer_config.json`;
  const config = await readOptionalJson(files, configPath);
  const map = await readOptionalJson(files, `${folder}/special_tokens_map.json`);
  const generation = await readOptionalJson(files, `${folder}/generation_config.json`);
  const { vocabSize, added } = checkVocabulary(json, path);
  const longest = encodingBound(json, path);
  const names: Record<string, string> = {};
  for (const name of SPECIAL_NAMES) {
    const content = tokenContent(config[name]) ?? tokenContent(map[name]);
    if (content !== undefined) names[name] = content;
  }
  const limited = <T>(work: () => T, tooSlow = () => slow(path, json)): T => timeLimit(work, tooSlow);
  const absent = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
  const engine = limited(() =>
    guarded(path, "the tokenizer cannot be built", "a fast tokenizer of a kind that @huggingface/tokenizers knows", () => {
      const made = new HubTokenizer({ ...absent, ...json }, { ...config, ...names });
      rememberWords(made);
      return made as Engine;
    }),
  );
  const running = <T>(work: () => T): T =>
    limited(() => guarded(path, "the tokenizer fails on a text", "parts that fit each other", work));
  const idOf = (name: string): number | undefined => {
    const token = names[name];
    if (token === undefined) return undefined;
    const id = engine.token_to_id(token);
    if (id !== undefined) return id;
    throw malformed(configPath, `${name} is not in the vocabulary`, `a token of ${path}`, JSON.stringify(token));
  };
  const generationIds = (key: string) => idList(generation[key], key, `${folder}/generation_config.json`);
  const eosIds = [...new Set([idOf("eos_token") ?? [], generationIds("eos_token_id")].flat())];
  const eosId = eosIds[0];
  const specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
  for (const token of Object.values(names)) {
    const id = engine.token_to_id(token);
    if (id !== undefined) specialIds.add(id);
  }
  const isLowercased = lowercases(json["normalizer"]);
  const cleanUp = config["clean_up_tokenization_spaces"] === true;
  const recent = recentTexts();

  return {
    encode(text, { addSpecialTokens = true } = {}) {
      const key = `${addSpecialTokens} ${text}`;
      const before = recent.get(key);
      if (before) return before.slice();
      if (longest(text.length) > MAX_INNER_CHARS) throw tooMuch(path, text.length);
      // Hugging Face's tokenizers lower a character at a time; JavaScript makes a capital sigma at the end of a word ς.
      const given = isLowercased ? text.replaceAll("Σ", "σ") : text;
      const { ids, tokens } = running(() => engine.encode(given, { add_special_tokens: addSpecialTokens }));
      const unknown = ids.indexOf(undefined);
      if (unknown >= 0) {
        const expected = "a vocabulary with an unknown token";
        throw malformed(path, "a piece of the text is not in the vocabulary", expected, JSON.stringify(tokens[unknown]));
      }
      const encoded = Int32Array.from(ids as number[]);
      recent.add(key, encoded);
      return encoded.slice();
    },
    decode(ids, { skipSpecialTokens = false } = {}) {
      const kept = Array.from(ids).filter(
        (id) => engine.id_to_token(id) !== undefined && !(skipSpecialTokens && specialIds.has(id)),
      );
      if (kept.length === 0) return "";
      const options = { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: cleanUp };
      return running(() => engine.decode(kept, options));
    },
    tokenToId: (token) => engine.token_to_id(token),
    frame: (pair) => frameOf(json["post_processor"], pair, { idOf: (token) => engine.token_to_id(token), vocabSize, path }),
    cutsLeft: config["truncation_side"] === "left",
    idToToken: (id) => engine.id_to_token(id),
    namedToken: (name) =>
      [config, config["model_specific_special_tokens"], config["extra_special_tokens"]]
        .map((names) => (isObject(names) && Object.hasOwn(names, name) ? tokenContent(names[name]) : undefined))
        .find((token) => token !== undefined),
    vocabSize,
    eosId,
    eosIds,
    bosId: idOf("bos_token") ?? generationIds("bos_token_id")[0],
    padId: idOf("pad_token") ?? generationIds("pad_token_id")[0] ?? eosId ?? 0,
    specialIds,
    template: await readTemplate(files, folder, config, names),
    limited,
  };
}

/** How many texts are remembered, and the longest of them in characters. */
const RECENT = { texts: 8, chars: 1 << 14 };

/** The ids of the texts before: records that follow each other often have the same prompt, and all have the same empty text. */
function recentTexts() {
  const known = new Map<string, Int32Array>();
  return {
    get: (key: string) => known.get(key),
    add(key: string, ids: Int32Array): void {
      if (key.length > RECENT.chars) return;
      if (known.size >= RECENT.texts) known.delete(known.keys().next().value!);
      known.set(key, ids);
    },
  };
}

/** The special tokens that the tokenizer puts in front of a text: its BOS, or nothing. */
export function specialPrefix(tokenizer: Tokenizer): number[] {
  const around = [...tokenizer.encode("", { addSpecialTokens: true })];
  const end = around.findIndex((id) => id !== tokenizer.bosId && tokenizer.eosIds.includes(id));
  return end < 0 ? around : around.slice(0, end);
}

/** Turns a stream of ids into text deltas whose concatenation (with `flush()`) is the decoded whole. */
export interface StreamDecoder {
  /** The text that `id` completes: empty while it ends inside a multi-byte character. */
  push(id: number): string;
  /** What was held back at the end of the stream. */
  flush(): string;
}

/**
 * A decoder for generation. Each token is decoded together with the ones before it that last gave text, so that leading
 * spaces survive; a trailing U+FFFD is held back until the bytes that complete it arrive.
 */
export function makeStreamDecoder(tokenizer: Tokenizer, { skipSpecialTokens = true } = {}): StreamDecoder {
  let window: number[] = [];
  let context = 0; // tokens at the front of `window` whose text is out already
  let emitted = ""; // the part of the window's text that is out
  const take = (whole: string, end: number): string => {
    const delta = whole.slice(emitted.length, end);
    emitted = whole.slice(0, Math.max(emitted.length, end));
    return delta;
  };
  return {
    push(id) {
      if (skipSpecialTokens && tokenizer.specialIds.has(id)) return "";
      window.push(id);
      const whole = tokenizer.decode(window);
      const inCharacter = whole.endsWith("\uFFFD") && window.length - context < MAX_HELD_TOKENS;
      const delta = take(whole, inCharacter ? whole.length - 1 : whole.length);
      if (!inCharacter && delta !== "") {
        window = window.slice(context);
        context = window.length;
        emitted = tokenizer.decode(window);
      }
      return delta;
    },
    flush() {
      const whole = tokenizer.decode(window);
      return take(whole, whole.length);
    },
  };
}

/** What the engine throws is due to a file whose parts it does not know, or that do not fit each other. */
function guarded<T>(path: string, message: string, expected: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw malformed(path, message, expected, String(cause).slice(0, 200), cause);
  }
}

/** Whether a tokenizer.json's normalizer makes text lower case. */
function lowercases(normalizer: unknown): boolean {
  if (!isObject(normalizer)) return false;
  const { type, lowercase, normalizers } = normalizer;
  if (type === "Sequence") return [normalizers].flat().some(lowercases);
  return type === "Lowercase" || (type === "BertNormalizer" && lowercase === true);
}

const textIn = (value: unknown): string => (typeof value === "string" ? value : "");

/** Checks that every id can be indexed by, before anything is sized by one. */
function checkVocabulary(json: JsonObject, path: string): { vocabSize: number; added: { id: number; special: boolean }[] } {
  const model = json["model"];
  if (!isObject(model)) throw malformed(path, "there is no model", "an object under the key model", kindOf(model));
  if (!MODEL_TYPES.includes(model["type"])) {
    throw malformed(path, "the kind of model is not known", MODEL_TYPES.filter(Boolean).join(", "), kindOf(model["type"]));
  }
  const vocab = model["vocab"];
  if (typeof vocab !== "object" || vocab === null) {
    throw malformed(path, "there is no vocabulary", "model.vocab: an object or a list", kindOf(vocab));
  }
  let largest = -1;
  const check = (id: unknown, token: string): number => {
    if (!isTokenId(id)) {
      const expected = `an integer from 0 to ${MAX_TOKEN_ID}`;
      throw malformed(path, `token ${JSON.stringify(token)} has no usable id`, expected, kindOf(id));
    }
    largest = Math.max(largest, id);
    return id;
  };
  // A Unigram has a list of pieces with their scores.
  const pieces = Array.isArray(vocab) ? vocab.map((entry: unknown) => textIn(Array.isArray(entry) ? entry[0] : entry)) : [];
  const tokens = Array.isArray(vocab) ? pieces : Object.keys(vocab);
  if (tokens.length > MAX_TOKEN_ID + 1)
    throw malformed(path, "the vocabulary is too large", `at most ${MAX_TOKEN_ID + 1} tokens`, String(tokens.length));
  if (Array.isArray(vocab)) check(vocab.length - 1, "(last)");
  else for (const token of tokens) check((vocab as JsonObject)[token], token);
  const list = json["added_tokens"] ?? [];
  if (!Array.isArray(list)) throw malformed(path, "added_tokens is not a list", "a list", kindOf(list));
  const added = list.map((entry: unknown, index) => {
    if (!isObject(entry) || typeof entry["content"] !== "string" || entry["content"] === "") {
      throw malformed(path, `added_tokens[${index}] is no token`, "an object with id and content", kindOf(entry));
    }
    return { id: check(entry["id"], entry["content"]), content: entry["content"], special: entry["special"] === true };
  });
  checkSizes({ merges: model["merges"], tokens, pieces, added: added.map(({ content }) => content) }, path);
  return { vocabSize: largest + 1, added };
}

/**
 * chat_template.jinja wins over tokenizer_config.json, as in Transformers; between them comes chat_template.json, which older
 * processors of models with images have. Of several named templates, `default` is used.
 */
async function readTemplate(
  files: Files,
  folder: string,
  config: JsonObject,
  tokens: Record<string, string>,
): Promise<ChatTemplate | undefined> {
  const jinja = `${folder}/chat_template.jinja`;
  if (await files.exists(jinja)) return { source: await readText(files, jinja), file: jinja, tokens };
  const legacy = `${folder}/chat_template.json`;
  const { chat_template: whole } = await readOptionalJson(files, legacy);
  if (typeof whole === "string") return { source: whole, file: legacy, tokens };
  const file = `${folder}/tokenizer_config.json`;
  const value = config["chat_template"] ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value === "string") return { source: value, file, tokens };
  const entries: unknown[] = Array.isArray(value) ? value : [];
  const named = new Map(entries.flatMap((entry) => (isNamedTemplate(entry) ? [[entry.name, entry.template]] : [])));
  const source = named.get("default");
  if (source !== undefined) return { source, toolUse: named.get("tool_use"), file, tokens };
  const got = named.size > 0 ? `templates named ${[...named.keys()].join(", ")}` : kindOf(value);
  throw malformed(file, "chat_template cannot be used", "a string, or a list of {name, template} with one named default", got);
}

const isNamedTemplate = (entry: unknown): entry is { name: string; template: string } =>
  isObject(entry) && typeof entry["name"] === "string" && typeof entry["template"] === "string";

async function missing(files: Files, folder: string): Promise<LowrankError> {
  const others: string[] = [];
  for (const name of ["tokenizer.model", "vocab.json", "vocab.txt"]) {
    if (await files.exists(`${folder}/${name}`)) others.push(name);
  }
  return new LowrankError("tokenizer/missing", "there is no tokenizer.json", {
    subject: folder,
    expected: "tokenizer.json, the fast tokenizer's file",
    got: others.length > 0 ? `only ${others.join(", ")}` : "no tokenizer file",
    next:
      others.length > 0
        ? "convert it once with Transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        : "copy tokenizer.json and tokenizer_config.json of the base model into the folder",
  });
}

const readOptionalJson = async (files: Files, path: string): Promise<JsonObject> =>
  (await files.exists(path)) ? readJsonObject(files, path) : {};

function idList(value: unknown, key: string, path: string): number[] {
  const list: unknown[] = [value ?? []].flat();
  for (const id of list) {
    if (!isTokenId(id)) throw malformed(path, `${key} is no token id`, "an id or a list of ids", kindOf(id));
  }
  return list as number[];
}

/** Special tokens are written as a string or as an AddedToken object. */
function tokenContent(value: unknown): string | undefined {
  if (isObject(value)) value = value["content"];
  return typeof value === "string" && value !== "" ? value : undefined;
}

const kindOf = (value: unknown): string =>
  value === undefined ? "nothing" : Array.isArray(value) ? "a list" : isObject(value) ? "an object" : JSON.stringify(value);

const slow = (subject: string, json: JsonObject): LowrankError =>
  new LowrankError("tokenizer/slow", "the tokenizer takes too long on a text", {
    subject,
    expected: `at most ${MAX_TEXT_MS / 1000} s for a text`,
    got: `more, with the expressions ${expressionsOf(json).slice(0, 3).join(" and ") || "of its kind"}`,
    next: "use the tokenizer of the model's own page; if it is, split the text into several records",
  });

const tooMuch = (subject: string, length: number): LowrankError =>
  new LowrankError("tokenizer/limit", "the tokenizer would expand the text too much", {
    subject,
    expected: `at most ${MAX_INNER_CHARS} characters after its replacements`,
    got: `a text of ${length} characters, which can become longer than that`,
    next: "split the text into several records, or use the tokenizer of the model's own page",
  });

const malformed = (subject: string, message: string, expected: string, got: string, cause?: unknown): LowrankError =>
  new LowrankError("tokenizer/malformed", message, {
    subject,
    expected,
    got,
    cause,
    next: "download the file again from the model's page",
  });
