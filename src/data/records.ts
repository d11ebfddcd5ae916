// The kinds of records that are trained on, and the spellings that data sets write them in: one table.
import { LowrankError, nearest } from "../errors.ts";
import { isObject } from "../formats/json.ts";
import { imagePath } from "../images/image.ts";
import { locatedIn } from "../multimodal/conversation.ts";
import { contentIn, wrongValue } from "../text/parts.ts";
import type { ChatMessage } from "../text/template.ts";
import { type Row, typeName } from "./readers/blocks.ts";

/** Paths of files, in the order of the places that a record has for images. */
interface Images {
  images?: string[];
}
export interface PromptRecord extends Images {
  prompt: string;
  completion: string;
}
export interface MessagesRecord extends Images {
  messages: ChatMessage[];
}
export interface TextRecord extends Images {
  text: string;
}
/** What a language model learns from. */
export type DataRecord = PromptRecord | MessagesRecord | TextRecord;

/** A record, and where it is in its file: "line 3". */
export interface NumberedRecord<R = DataRecord> {
  record: R;
  place: string;
  /** The numbers of its images (images.ts), when they are read. */
  images?: readonly number[];
}

/** The keys (JSON) or columns (CSV, Parquet) that hold a record's texts, where no spelling of the table is meant. */
export interface ColumnNames {
  promptColumn?: string;
  /** "completion" if only the other one is given, as "prompt" is the other way round. */
  completionColumn?: string;
  textColumn?: string;
  textPairColumn?: string;
  labelColumn?: string;
  imageColumn?: string;
  /** Those of a task's own records. */
  [column: `${string}Column`]: string | undefined;
}

/** One row, read by its keys. */
export interface Fields {
  /** The value of a key; throws `data/value` if it is no string. */
  text(key: string): string;
  /** The value of a key; "" if the row has none. */
  optional(key: string): string;
  /** The turns in a list of messages. */
  turns(key: string): ChatMessage[];
  /** The path of a file; one that is relative is so to the folder that the data are in. */
  path(key: string): string;
  /** The images of the row, under `images` or `image`; nothing if there are none. */
  images(): Images;
  /** The name of a class: a text, a whole number or a truth value. */
  label(key: string): string;
  /** The value of a key, whatever it is; what is missing is undefined. */
  value(key: string): unknown;
  /** The error for a value that is not `expected`. */
  wrong(key: string, expected: string): LowrankError;
}

/** How data sets write a record of kind `R`. */
export interface RecordFormat<R = DataRecord> {
  name: string;
  /** A row is of the spelling when it has these. */
  keys: readonly string[];
  /** These are used where a row has them. */
  optional: readonly string[];
  make(texts: Fields): R;
}

/** A text and its heading, as Alpaca's prompts have them. */
const section = (heading: string, text: string): string => (text === "" ? "" : `### ${heading}:\n${text}\n\n`);
/** What a system column says, before a prompt. */
const preamble = (system: string): string => (system === "" ? "" : `${system}\n\n`);

/** The keys of images, where a row has any. */
const imageKeys = ["images", "image"];

/** How a record is read from keys that a few data sets call otherwise. */
type Pattern = Omit<RecordFormat, "name">;

/** Alpaca's prompt without the sentence in front, which says whether there is an input: what all prompts share is the heading. */
const instruction = (input: string, output: string): Pattern => ({
  keys: ["instruction", output],
  optional: [input, "system"],
  make: ({ text, optional }) => ({
    prompt: `${preamble(optional("system"))}${section("Instruction", text("instruction"))}${section("Input", optional(input))}### Response:\n`,
    completion: text(output),
  }),
});

const question = (answer: string): Pattern => ({
  keys: ["question", answer],
  optional: ["system", "system_prompt"],
  make: ({ text, optional }) => ({
    prompt: `${preamble(optional("system") || optional("system_prompt"))}Question: ${text("question")}\nAnswer:`,
    completion: ` ${text(answer)}`,
  }),
});

/** A prompt that the completion follows at once. */
const prompt = (key: string, completion: string): Pattern => ({
  keys: [key, completion],
  optional: ["system", ...imageKeys],
  make: ({ text, optional, images }) => ({
    prompt: preamble(optional("system")) + text(key),
    completion: text(completion),
    ...images(),
  }),
});

const turns = (key: string): Pattern => ({
  keys: [key],
  optional: ["system", ...imageKeys],
  make: ({ turns, optional, images }) => {
    const messages = turns(key);
    const content = optional("system");
    const isFirst = content !== "" && messages[0]!.role !== "system";
    return { messages: isFirst ? [{ role: "system", content }, ...messages] : messages, ...images() };
  },
});

const whole = (key: string): Pattern => ({
  keys: [key],
  optional: imageKeys,
  make: ({ text, images }) => ({ text: text(key), ...images() }),
});

export const recordFormats: readonly RecordFormat[] = [
  { name: "OpenAI messages", ...turns("messages") },
  { name: "ShareGPT", ...turns("conversations") },
  { name: "Alpaca", ...instruction("input", "output") },
  { name: "Dolly", ...instruction("context", "response") },
  { name: "prompt and completion", ...prompt("prompt", "completion") },
  { name: "prompt and response", ...prompt("prompt", "response") },
  { name: "question and answer", ...question("answer") },
  { name: "question and response", ...question("response") },
  {
    name: "input and output",
    keys: ["input", "output"],
    optional: ["system"],
    make: ({ text, optional }) => ({ prompt: `${preamble(optional("system"))}${text("input")}\n`, completion: text("output") }),
  },
  { name: "text", ...whole("text") },
];

/** The spellings to look for in a file. */
export interface RecordFormats<R = DataRecord> {
  candidates: readonly RecordFormat<R>[];
  /** The flags that say which columns are meant. */
  naming: string;
  /** Of those, two that name the columns of a record of two. */
  pair: readonly [string, string];
  /** What a folder is read for: its metadata.jsonl, and where there is none a folder for each class. Otherwise it is no data. */
  folder?: "metadata" | "classes";
}

/** The spellings of what a language model learns from: those of the table, or the columns that were named. */
export function formatsFor({ promptColumn, completionColumn, textColumn }: ColumnNames): RecordFormats {
  const named: RecordFormat[] = [];
  if (promptColumn !== undefined || completionColumn !== undefined) {
    const columns = prompt(promptColumn ?? "prompt", completionColumn ?? "completion");
    named.push({ name: "named columns", ...columns, optional: imageKeys });
  }
  if (textColumn !== undefined) named.push({ name: "named column", ...whole(textColumn) });
  return {
    candidates: named.length > 0 ? named : recordFormats,
    naming: "--prompt-column with --completion-column, or --text-column",
    pair: ["--prompt-column", "--completion-column"],
  };
}

/**
 * The spelling that a record with these keys is written in: the one whose keys it has. Of two, the one that has all keys of
 * the other and more is meant; {text} beside another is treated as a copy of it; a null counts only if nothing else is there.
 * @throws LowrankError `data/keys` that names the keys found and how to name columns.
 */
export function formatOf<R>(
  keys: readonly string[],
  isNull: (key: string) => boolean,
  sought: RecordFormats<R>,
  subject: string,
): RecordFormat<R> {
  const { candidates, naming } = sought;
  const fitting = candidates.filter((spelling) => spelling.keys.every((key) => keys.includes(key)));
  const filled = fitting.filter((spelling) => !spelling.keys.some(isNull));
  const found = filled.length > 0 ? filled : fitting;
  const covers = (a: RecordFormat<R>, b: RecordFormat<R>) =>
    b.name === "text" ||
    (b.keys.length <= a.keys.length && b.keys.every((key) => a.keys.includes(key) || a.optional.includes(key)));
  const meant = found.filter((one) => !found.some((other) => other !== one && covers(other, one)));
  if (meant.length === 1) return meant[0]!;
  const isSeveral = meant.length > 1;
  throw new LowrankError("data/keys", isSeveral ? "the record matches several formats" : "the record's keys match no format", {
    subject,
    expected: `one of ${candidates.map((spelling) => describe(spelling.keys)).join(", ")}`,
    got: keys.length === 0 ? "no keys" : describe(keys.slice(0, 20)),
    next: isSeveral
      ? `keep the keys of one format, or name the columns (${naming})`
      : `rename the keys, or name the columns (${naming}${suggestion(keys, sought)})`,
  });
}

/** Whether data sets call an image so; no text or class is meant by it, and the other way round. */
const isImageKey = (key: string): boolean => ["image", "images", "img", "file_name"].includes(key);

/** Of the spelling that lacks one key only, what may be meant by it; of two keys that none has, flags that take them. */
function suggestion(keys: readonly string[], { candidates, pair }: RecordFormats<unknown>): string {
  for (const spelling of candidates) {
    const missing = spelling.keys.filter((key) => !keys.includes(key));
    const others = keys.filter((key) => !spelling.keys.includes(key) && isImageKey(key) === isImageKey(missing[0] ?? ""));
    if (missing.length !== 1 || spelling.keys.length < 2) continue;
    const [similar] = nearest(missing[0]!, others, 1);
    if (similar !== undefined) return `; ${missing[0]} may be ${JSON.stringify(similar)} here`;
  }
  const unknown = !keys.some(isImageKey) && keys.every((key) => !candidates.some((spelling) => spelling.keys.includes(key)));
  const [first, second] = keys.map((key) => (/^[\w-]+$/.test(key) ? key : JSON.stringify(key)));
  return keys.length === 2 && unknown ? `; perhaps ${pair[0]} ${first} ${pair[1]} ${second}` : "";
}

/**
 * A row in a spelling as a record; paths are relative to `folder`. Throws `data/value` for a value that is no text or no list of
 * messages.
 */
export function makeRecord<R>({ fields }: Row, spelling: RecordFormat<R>, subject: string, folder: string | null): R {
  const text = (key: string) => requireText(fields.get(key), key, subject);
  return spelling.make({
    text,
    optional: (key) => ((fields.get(key) ?? null) === null ? "" : text(key)),
    turns: (key) => locatedIn(folder, messagesIn(fields.get(key), key, subject), subject),
    path: (key) => imagePath(text(key), folder, subject),
    images: () => {
      const key = imageKeys.find((name) => (fields.get(name) ?? null) !== null);
      const paths = key === undefined ? [] : pathsIn(fields.get(key), key, subject);
      return paths.length === 0 ? {} : { images: paths.map((path) => imagePath(path, folder, subject)) };
    },
    label: (key) => labelIn(fields.get(key), key, subject),
    value: (key) => fields.get(key),
    wrong: (key, expected) => wrongValue(key, expected, typeName(fields.get(key)), subject),
  });
}

/** The path of an image, or a list of them; as data sets on the hub write it, {path}. */
function pathsIn(value: unknown, key: string, subject: string): string[] {
  return [value].flat().map((one: unknown) => {
    const { path, bytes } = isObject(one) ? one : { path: one, bytes: null };
    if ((bytes ?? null) !== null) {
      throw new LowrankError("data/value", "the images are inside the data file", {
        subject,
        expected: `${key}: paths of files`,
        got: "bytes",
        next: "write each image to a file, and its path, relative to the data file, into the record",
      });
    }
    return requireText(path, key, subject);
  });
}

/** Who speaks, in the words of ShareGPT's data sets, by the roles that chat templates know. */
const SPEAKERS = {
  user: ["human", "user"],
  assistant: ["gpt", "chatgpt", "bot", "model", "assistant"],
  system: ["system"],
  tool: ["tool", "function", "observation"],
};
const roles = new Map(Object.entries(SPEAKERS).flatMap(([role, names]) => names.map((name) => [name, role])));

/** A list of {role, content} or of {from, value}. */
function messagesIn(list: unknown, key: string, subject: string): ChatMessage[] {
  if (!Array.isArray(list) || list.length === 0) {
    throw wrongValue(key, "a list of at least one {role, content} or {from, value}", typeName(list), subject);
  }
  return list.map((message: unknown, i) => {
    const at = `${key}[${i}]`;
    if (!isObject(message)) throw wrongValue(at, "an object {role, content} or {from, value}", typeName(message), subject);
    if (!("from" in message) || "role" in message) {
      const role = requireText(message["role"], `${at}.role`, subject);
      const given = message["content"];
      const content = (Array.isArray(given) ? contentIn : requireText)(given, `${at}.content`, subject);
      return { ...message, role, content };
    }
    const speaker = requireText(message["from"], `${at}.from`, subject);
    const role = roles.get(speaker);
    if (role === undefined) {
      throw wrongValue(`${at}.from`, `one of ${[...roles.keys()].join(", ")}`, JSON.stringify(speaker), subject);
    }
    return { role, content: requireText(message["value"], `${at}.value`, subject) };
  });
}

function labelIn(value: unknown, key: string, subject: string): string {
  const isName = typeof value === "string" && value.trim() !== "";
  if (isName || Number.isSafeInteger(value) || typeof value === "boolean") return String(value).trim();
  throw wrongValue(key, "the name or the number of a class", typeName(value), subject);
}

function requireText(value: unknown, key: string, subject: string): string {
  if (typeof value !== "string") throw wrongValue(key, "a string", typeName(value), subject);
  return value;
}

export const describe = (keys: readonly string[]): string => `{${keys.join(", ")}}`;
