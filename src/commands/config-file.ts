// Values of options, from the command line (text) and from config files (YAML or JSON, read within bounds because they may come from
// strangers), and config files to begin with. Of a value only the kind is checked; whether it is in range is checked where it is used.
import { parseDocument, stringify } from "yaml";
import { z } from "zod";
import { LowrankError, nearest, valueText } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject, readText } from "../formats/json.ts";
import { coreOf, type DescribedOption, describeOptions, helpOf, type Options, sections } from "../options.ts";
import { wrap } from "../terminal/columns.ts";

export type Values = Record<string, unknown>;

/** Largest config file. */
const MAX_CONFIG_BYTES = 256 * 1024;
/** Nodes that aliases may stand for. */
const MAX_ALIASES = 100;

/** A kind of value: what it is in words, how text becomes it, and which JSON values are it. */
interface Kind {
  expected: string;
  parse(text: string): unknown;
  accepts(value: unknown): boolean;
}

const text: Kind = { expected: "a text", parse: (given) => given, accepts: (value) => typeof value === "string" };
const number: Kind = {
  expected: "a number",
  // NaN for what Number takes for a number and people don't.
  parse: (given) => (/^\s*$/.test(given) ? Number.NaN : Number(given)),
  accepts: (value) => typeof value === "number" && Number.isFinite(value),
};
const switched: Kind = {
  expected: "true or false",
  parse: (given) => (given === "true" || given === "false" ? given === "true" : given),
  accepts: (value) => typeof value === "boolean",
};
const object: Kind = {
  expected: "a JSON object",
  parse: (given) => {
    try {
      return JSON.parse(given);
    } catch {
      return given;
    }
  },
  accepts: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
};

/** Values of one kind in a list: on the command line with commas between them, or one of a flag that is repeated. */
const listOf = ({ parse, accepts }: Kind, what: string, commas = false): Kind => ({
  expected: commas ? `${what} with commas between them` : `a list of ${what}`,
  parse: (given) => (commas ? given.split(",").map((each) => parse(each.trim())) : [parse(given)]),
  accepts: (value) => Array.isArray(value) && value.every(accepts),
});

/** The first of the kinds that the text is. */
const anyOf = (kinds: readonly Kind[]): Kind => ({
  expected: kinds.map(({ expected }) => expected).join(" or "),
  parse: (given) => kinds.map(({ parse, accepts }) => [parse(given), accepts] as const).find(([value, is]) => is(value))?.[0],
  accepts: (value) => kinds.some(({ accepts }) => accepts(value)),
});

function kindOf(type: z.ZodType, commas?: boolean): Kind {
  const core = coreOf(type);
  if (core instanceof z.ZodUnion) return anyOf(core.options.map((each) => kindOf(each as z.ZodType)));
  if (core instanceof z.ZodArray) {
    const items = coreOf(core.element as z.ZodType);
    if (items instanceof z.ZodTuple) return listOf(listOf(number, "whole numbers"), "lists of whole numbers");
    return items instanceof z.ZodNumber ? listOf(number, "whole numbers", commas) : listOf(text, "texts", commas);
  }
  if (core instanceof z.ZodNumber) return number;
  if (core instanceof z.ZodBoolean) return switched;
  return core instanceof z.ZodRecord || core instanceof z.ZodObject ? object : text;
}

/** What the text behind a flag means. Throws `cli/value` that names the flag. */
export function parseValue(option: DescribedOption, given: string): unknown {
  const parse = option.parse ?? kindOf(option.type, option.commas).parse;
  return checked(option, parse(given), option.flag, given);
}

/** The options that a config file sets: names as in the API (or as on the command line, without the dashes), in YAML or JSON. */
export async function readConfigFile(files: Files, path: string, options: readonly DescribedOption[]): Promise<Values> {
  const byName = new Map(options.map((option) => [option.name, option]));
  const values: Values = {};
  for (const [key, value] of Object.entries(await readObject(files, path))) {
    const option = byName.get(key.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase()));
    if (!option) {
      throw new LowrankError("cli/config-key", "the config file sets an option that the command does not have", {
        subject: path,
        expected: `one of the command's options, such as ${nearest(key.slice(0, 128), byName.keys()).join(", ")}`,
        got: key,
        next: "Correct the name, or remove it.",
      });
    }
    values[option.name] = checked(option, value, `${path}: ${key}`, valueText(value));
  }
  return values;
}

function checked({ type, choices, commas, ...option }: DescribedOption, value: unknown, subject: string, got: string): unknown {
  const { accepts, expected } = kindOf(type, commas);
  const isNull = value === null && type.isNullable();
  if (isNull || (accepts(value) && (!choices || choices.includes(String(value))))) return value;
  throw new LowrankError("cli/value", "the option has a value that cannot be used", {
    subject,
    expected: choices ? `one of ${choices.join(", ")}` : (option.expected ?? expected),
    got,
    next: "Correct the value.",
  });
}

async function readObject(files: Files, path: string): Promise<Values> {
  const size = await files.size(path);
  if (size > MAX_CONFIG_BYTES) {
    throw new LowrankError("cli/config", "too large for a config file", {
      subject: path,
      expected: `at most ${MAX_CONFIG_BYTES} bytes`,
      got: `${size} bytes`,
      next: "Give the file that lowrank init wrote, or one like it.",
    });
  }
  return /\.ya?ml$/i.test(path) ? parseYaml(await readText(files, path), path) : readJsonObject(files, path);
}

/** The keys and values of a config file. Throws `cli/config` that names the line. */
function parseYaml(source: string, path: string): Values {
  const fail = (message: string, got: string, cause?: unknown): never => {
    throw new LowrankError("cli/config", message, {
      subject: path,
      expected: "YAML: one name: value on each line",
      got,
      next: "Correct the file, or write a new one with lowrank init.",
      cause,
    });
  };
  let value: unknown;
  try {
    const document = parseDocument(source, { uniqueKeys: true, prettyErrors: true, logLevel: "error" });
    if (document.errors.length > 0) throw document.errors[0];
    value = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    return fail("the config file cannot be read as YAML", (error as Error).message, error);
  }
  if (value === null || value === undefined) return {};
  if (object.accepts(value)) return value as Values;
  return fail("the config file does not hold names and values", valueText(value).slice(0, 80));
}

/** A config file in YAML: the options given are set, the others are comments with their default. */
export function writeConfig(options: Options, values: Record<string, unknown>, introduction: readonly string[]): string {
  const described = describeOptions(options);
  const lines = introduction.map((line) => `# ${line}`.trimEnd());
  for (const [id, title] of Object.entries(sections)) {
    lines.push("", `# --- ${title} ---`);
    for (const option of described.filter(({ section = "more" }) => section === id)) {
      lines.push("", ...wrap(helpOf(option), 95).map((line) => `# ${line}`), lineOf(option, values[option.name]));
    }
  }
  return `${lines.join("\n")}\n`;
}

/** An option on one line. */
function lineOf({ name, usual, isSwitch }: DescribedOption, value: unknown): string {
  if (value === undefined) return `#${name}: ${usual ?? (isSwitch ? "false" : "")}`.trimEnd();
  const text = stringify(value, { collectionStyle: "flow", lineWidth: 0 }).trim();
  return `${name}: ${text.includes("\n") ? JSON.stringify(value) : text}`;
}
