// Values of flags, from the command line (text) and from a config file (YAML or JSON), checked by the flag's kind.
import { LowrankError, nearest, valueText } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject, readText } from "../formats/json.ts";
import { type Flag, flagOf, type Kind } from "./flags.ts";
import { isYaml, MAX_CONFIG_BYTES, parseYaml } from "./yaml.ts";

export type Values = Record<string, unknown>;

/** One kind of value: what it is in words, how text becomes it, and which JSON values are it. */
interface KindRow {
  expected: string;
  parse(text: string): unknown;
  accepts(value: unknown): boolean;
}

const isText = (value: unknown) => typeof value === "string";
const isNumber = (value: unknown) => typeof value === "number";
const listOf = (test: (value: unknown) => boolean) => (value: unknown) => Array.isArray(value) && value.every(test);
/** NaN for what Number takes for a number and people don't. */
const toNumber = (text: string) => (/^\s*$/.test(text) ? Number.NaN : Number(text));
const finite = (value: unknown) => isNumber(value) && Number.isFinite(value);

const kinds: Record<Kind, KindRow> = {
  text: { expected: "a text", parse: (text) => text, accepts: isText },
  texts: { expected: "a list of texts", parse: (text) => [text], accepts: listOf(isText) },
  list: {
    expected: "texts with commas between them",
    parse: (text) => text.split(",").map((each) => each.trim()),
    accepts: listOf(isText),
  },
  number: { expected: "a number", parse: toNumber, accepts: finite },
  numbers: {
    expected: "whole numbers with commas between them",
    parse: (text) => text.split(",").map(toNumber),
    accepts: listOf(finite),
  },
  boolean: { expected: "true or false", parse: (text) => text === "true", accepts: (value) => typeof value === "boolean" },
  names: {
    expected: "names, a regular expression, all-linear, or default",
    parse: parseNames,
    accepts: (value) => value === null || isText(value) || listOf(isText)(value),
  },
  object: {
    expected: "a JSON object",
    parse: parseObject,
    accepts: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  },
  samples: {
    expected: "a number of records, or a file",
    parse: (text) => (/^\d+$/.test(text) ? Number(text) : text),
    accepts: (value) => finite(value) || isText(value),
  },
  init: {
    expected: "true, false or gaussian",
    parse: (text) => (text === "true" || text === "false" ? text === "true" : text),
    accepts: (value) => typeof value === "boolean" || value === "gaussian",
  },
};

/** Names with commas between them are a list; "all-linear", and what has other characters, is a regular expression; null, which commander can't hold, is "default". */
function parseNames(text: string): string | string[] {
  if (text === "default" || text === "null") return "default";
  return text !== "all-linear" && /^[\w.-]+(,[\w.-]+)*$/.test(text) ? text.split(",") : text;
}

function parseObject(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What the text behind a flag means. Throws `cli/value` that names the flag. */
export function parseValue(flag: Flag, text: string): unknown {
  return checked(flag, kinds[flag.kind].parse(text), flagOf(flag.name), text);
}

/** The flags a config file sets: an object of names, in YAML (.yaml, .yml) or JSON, as in the API (or as on the command line, without the dashes). */
export async function readConfigFile(files: Files, path: string, flags: readonly Flag[]): Promise<Values> {
  const byName = new Map(flags.map((flag) => [flag.name, flag]));
  const values: Values = {};
  for (const [key, value] of Object.entries(await readObject(files, path))) {
    const flag = byName.get(key.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase()));
    if (!flag) {
      throw new LowrankError("cli/config-key", "the config file sets an option that the command does not have", {
        subject: path,
        expected: `one of the command's options, such as ${nearest(key.slice(0, 128), byName.keys()).join(", ")}`,
        got: key,
        next: "Correct the name, or remove it.",
      });
    }
    values[flag.name] = checked(flag, value, `${path}: ${key}`, valueText(value));
  }
  return values;
}

async function readObject(files: Files, path: string): Promise<Values> {
  const size = await files.size(path);
  if (size <= MAX_CONFIG_BYTES) return isYaml(path) ? parseYaml(await readText(files, path), path) : readJsonObject(files, path);
  throw new LowrankError("cli/config", "too large for a config file", {
    subject: path,
    expected: `at most ${MAX_CONFIG_BYTES} bytes`,
    got: `${size} bytes`,
    next: "Give the file that lowrank init wrote, or one like it.",
  });
}

function checked(flag: Flag, value: unknown, subject: string, got: string): unknown {
  const { accepts, expected } = kinds[flag.kind];
  if (accepts(value) && (!flag.choices || flag.choices.includes(String(value)))) return value;
  throw new LowrankError("cli/value", "the option has a value that cannot be used", {
    subject,
    expected: flag.choices ? `one of ${flag.choices.join(", ")}` : expected,
    got,
    next: "Correct the value.",
  });
}
