// Config files in YAML: read within bounds, because they may come from strangers, and written with a comment on every option.
import { parseDocument, stringify } from "yaml";
import { LowrankError } from "../errors.ts";
import { type CommandName, commands, defaultOf, type Flag } from "./flags.ts";
import type { Values } from "./values.ts";

/** Largest config file. */
export const MAX_CONFIG_BYTES = 256 * 1024;
/** Nodes that aliases may stand for. */
const MAX_ALIASES = 100;

export const isYaml = (path: string): boolean => /\.ya?ml$/i.test(path);

/** The keys and values of a config file. Throws `cli/config` that tells the line. */
export function parseYaml(text: string, path: string): Values {
  const fail = (message: string, got: string, cause?: unknown): never => {
    throw new LowrankError("cli/config", message, {
      subject: path,
      expected: "YAML: one name: value on each line",
      got,
      next: "Correct the file, or write a new one with lowrank init.",
      cause,
    });
  };
  const read = (): unknown => {
    try {
      const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true, logLevel: "error" });
      const [error] = document.errors;
      if (error) return fail("the config file is not valid YAML", error.message);
      return document.toJS({ maxAliasCount: MAX_ALIASES });
    } catch (error) {
      if (error instanceof LowrankError) throw error;
      return fail("the config file cannot be read as YAML", (error as Error).message, error);
    }
  };
  const value = read();
  if (value === null || value === undefined) return {};
  if (typeof value === "object" && !Array.isArray(value)) return value as Values;
  return fail("the config file does not hold names and values", JSON.stringify(value)?.slice(0, 80) ?? typeof value);
}

/** Options of `train` by what they are about; those that belong in no file are left out. */
const SECTIONS: [string, (name: string) => boolean][] = [
  ["What is trained, on what, and where the result goes", named("base", "data", "output", "evalData", "evalSplit", "method")],
  ["The adapter", named("rank", "alpha", "dropout", "targetModules")],
  ["The run", named("epochs", "steps", "batchSize", "gradientAccumulation", "maxLength", "learningRate", "schedule", "warmup")],
  ["Everything else", () => true],
];
const LEFT_OUT = ["resume", "force"];

function named(...names: string[]): (name: string) => boolean {
  return (name) => names.includes(name);
}

/** A config file of a command: the options given are set, the others are comments with their default. */
export function writeConfig(command: CommandName, values: Values, introduction: readonly string[]): string {
  const left = commands[command].flags.filter(({ name }) => !LEFT_OUT.includes(name));
  const lines = introduction.map((line) => `# ${line}`.trimEnd());
  for (const [title, belongs] of SECTIONS) {
    lines.push("", `# --- ${title} ---`);
    for (const flag of left.filter(({ name }) => belongs(name))) {
      left.splice(left.indexOf(flag), 1);
      lines.push("", ...commentOf(flag), lineOf(command, flag, values[flag.name]));
    }
  }
  return `${lines.join("\n")}\n`;
}

function commentOf({ help, choices }: Flag): string[] {
  const text = `${help}${choices ? ` (${choices.join(", ")})` : ""}`;
  const wrapped = text.match(/\S.{0,94}(?=\s|$)|\S+/g) ?? [text];
  return wrapped.map((line) => `# ${line}`);
}

function lineOf(command: CommandName, flag: Flag, value: unknown): string {
  if (value !== undefined) return `${flag.name}: ${scalar(value)}`;
  const usual = defaultOf(command, flag) ?? (flag.kind === "boolean" ? "false" : "");
  return `#${flag.name}: ${usual}`.trimEnd();
}

/** A value on one line. */
function scalar(value: unknown): string {
  const text = stringify(value, { collectionStyle: "flow", lineWidth: 0 }).trim();
  return text.includes("\n") ? JSON.stringify(value) : text;
}
