// Options, each declared once: the type and the default in zod's terms, beside them what flags, config files, help and docs/cli.md need.
import { z } from "zod";
import { LowrankError } from "./errors.ts";

/** The sections of a config file that `lowrank init` writes, in order. */
export const sections = {
  what: "What is trained, on what, and where the result goes",
  adapter: "The adapter",
  run: "The run",
  more: "Everything else",
} as const;

/** What is known of an option beside its type. */
export interface OptionInfo {
  /** One line, in lower case and without a full stop. */
  help: string;
  /** What help calls the value. Default: N for a number, NAME for one of several words, TEXT. */
  value?: string;
  /** Where a config file has it; "none" keeps it out of config files that are written. Default: more. */
  section?: keyof typeof sections | "none";
  /** The option that cannot be given beside it. */
  excludes?: string;
  /** The value names a model (hub/reference.ts); the command gets its folder. Some read files of other kinds too. */
  model?: boolean | "or a file";
  /** The items of a list have commas between them on the command line, where others repeat the flag. */
  commas?: boolean;
  /** What it can be, where the type is not an enum. */
  choices?: readonly string[];
  /** What is expected, in words, and how the command line's text becomes a value, where the type does not say it. */
  expected?: string;
  parse?: (text: string) => unknown;
}

/** Options by their names, which are those of the API and of config files. */
export type Options = Record<string, z.ZodType>;
/** The values of options as they are given; those with a default can be absent. */
export type Given<O extends Options> = z.input<z.ZodObject<O>>;

const infos = z.registry<OptionInfo>();

/** An option of this type. The type stays as it is: others can share it. */
export function option<T extends z.ZodType>(type: T, info: OptionInfo): T {
  const own = type.clone();
  infos.add(own, info);
  return own;
}

/** The option with another help, or another default. */
export const reworded = <T extends z.ZodType>(type: T, changes: Partial<OptionInfo>): T =>
  option(type, { ...infoOf(type), ...changes });

export const pick = <O extends object, K extends keyof O & string>(options: O, ...names: K[]): Pick<O, K> =>
  Object.fromEntries(names.map((name) => [name, options[name]])) as Pick<O, K>;

/** All options but these. */
export const omit = <O extends object, K extends keyof O & string>(options: O, ...names: K[]): Omit<O, K> =>
  Object.fromEntries(Object.entries(options).filter(([name]) => !names.includes(name as K))) as Omit<O, K>;

/** An option as flags, config files, help and docs/cli.md show it. */
export interface DescribedOption extends OptionInfo {
  name: string;
  type: z.ZodType;
  /** The name on the command line: `learningRate` → `--learning-rate`. */
  flag: string;
  /** A switch, which has no value on the command line. */
  isSwitch: boolean;
  /** The flag can be repeated. */
  isRepeatable: boolean;
  isRequired: boolean;
  /** The default in words; undefined if there is none to show. */
  usual: string | undefined;
}

export const describeOptions = (options: Options): DescribedOption[] =>
  Object.entries(options).map(([name, type]) => {
    const info = infoOf(type);
    const core = coreOf(type);
    const kind = core.def.type;
    const choices = info.choices ?? (core instanceof z.ZodEnum ? core.options.map(String) : undefined);
    return {
      ...info,
      name,
      type,
      flag: flagOf(name),
      value: info.value ?? (kind === "number" ? "N" : choices ? "NAME" : "TEXT"),
      choices,
      isSwitch: kind === "boolean",
      isRepeatable: kind === "array" && !info.commas,
      isRequired: !type.safeParse(undefined).success,
      usual: inWords(type),
    };
  });

/** `learningRate` → `--learning-rate`. */
export const flagOf = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** Fails with `code` for a count that is given and is no whole number from `least` to `most`. */
export function checkCounts(
  code: string,
  counts: Record<string, number | undefined>,
  { least = 1, most = Number.MAX_SAFE_INTEGER }: { least?: number; most?: number } = {},
): void {
  for (const [subject, count = least] of Object.entries(counts)) {
    if (Number.isSafeInteger(count) && count >= least && count <= most) continue;
    const upTo = most < Number.MAX_SAFE_INTEGER ? ` and at most ${most}` : "";
    const [expected, next] = [`a whole number of at least ${least}${upTo}`, `Change ${subject}, or leave it out.`];
    throw new LowrankError(code, "this number cannot be used", { subject, expected, got: String(count), next });
  }
}

/** The help with the choices behind it. */
export const helpOf = ({ help, choices }: OptionInfo): string => `${help}${choices ? ` (${choices.join(", ")})` : ""}`;

/** The type and those inside it, from the outside: what is around a type makes it optional or nullable, or gives a default or a transformation. */
function layersOf(type: z.ZodType): z.ZodType[] {
  if (type instanceof z.ZodPipe) return [type, ...layersOf(type.in as z.ZodType)];
  const isAround = type instanceof z.ZodOptional || type instanceof z.ZodNullable || type instanceof z.ZodDefault;
  return [type, ...(isAround ? layersOf(type.unwrap() as z.ZodType) : [])];
}

/** What a value is when it is given. */
export const coreOf = (type: z.ZodType): z.ZodType => layersOf(type).at(-1)!;

function infoOf(type: z.ZodType): OptionInfo {
  const [info] = layersOf(type).flatMap((layer) => infos.get(layer) ?? []);
  if (info) return info;
  throw new Error("a type without help is no option");
}

function inWords(type: z.ZodType): string | undefined {
  const value: unknown = layersOf(type).find((layer) => layer instanceof z.ZodDefault)?.def.defaultValue;
  return value === undefined || value === null || value === false || JSON.stringify(value) === "{}" ? undefined : String(value);
}
