// PEFT's LoraConfig: adapter_config.json read and written as PEFT 0.21.2 does. Every field is honoured or refused by name.
import { z } from "zod";
import { LowrankError, nearest, valueText } from "../errors.ts";
import { parseJsonObject } from "../formats/json.ts";
import { MAX_LAYERS } from "../models/config/schema.ts";
import { evaSchema } from "./eva.ts";
import { type InitialKind, initializationOf, initialKind, initialKinds } from "./initializations.ts";
import { methodOf, methodPeftNames, methodSchemas, unbuiltMethods } from "./method-table.ts";

/** The PEFT release whose file format is written. */
export const PEFT_VERSION = "0.21.2";
const MAX_RANK = 65_536;
const MAX_PATTERNS = 20_000;
/** float32's largest: the scale is alpha / rank, or alpha / sqrt(rank). */
const MAX_ALPHA = 3.4028234663852886e38;

const taskTypes = ["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"] as const;
const names = z.union([z.string(), z.array(z.string().min(1))]).nullable();
const rows = z.array(z.int().min(0)).max(MAX_PATTERNS);
/** Rows of the token embedding, or of modules by name. */
export const rowsSchema = z
  .union([rows, z.record(z.string().min(1), rows)])
  .nullable()
  .default(null);
/** The values of PEFT's `bias`. */
export const biasChoices = ["none", "all", "lora_only"] as const;
const rank = z.int().min(1).max(MAX_RANK);
const alpha = z.number().min(-MAX_ALPHA).max(MAX_ALPHA);
const oneOrMore = <T extends z.ZodType>(value: T) =>
  z
    .union([value, z.array(value)])
    .nullable()
    .default(null);
const byPattern = <T extends z.ZodType>(value: T) =>
  z
    .record(z.string().min(1), value)
    .refine((patterns) => Object.keys(patterns).length <= MAX_PATTERNS, `more than ${MAX_PATTERNS} entries`)
    .nullable()
    .transform((patterns) => patterns ?? {});

const schema = z.object({
  /** r: rows of A and columns of B. */
  rank: rank.default(8),
  alpha: alpha.default(8),
  /** Probability with which an element of A's input is dropped in training. */
  dropout: z.number().min(0).lt(1).default(0),
  /** Names or suffixes of module paths; a string is a regular expression or "all-linear"; null is PEFT's default of the model type. */
  targetModules: names.default(null),
  excludeModules: names.default(null),
  /** Names or endings of the paths of parameters that belong to no linear layer, such as those of experts. */
  targetParameters: z.array(z.string().min(1)).nullable().default(null),
  /** Names of modules that are trained in full and stored with the adapter (saved.ts). */
  modulesToSave: z.array(z.string().min(1)).nullable().default(null),
  /** Rows of the token embedding that are trained; or of several modules, by their names. */
  trainableTokenIndices: rowsSchema,
  /** Which biases of the base are trained: those of adapted modules, or all. */
  bias: z.enum(biasChoices).default("none"),
  /** Whether what is trained of an embedding stays one with the output layer that is tied to it. */
  ensureWeightTying: z.boolean().default(false),
  /** Only layers with these indices, counted from 0; only together with a list of target modules. */
  layersToTransform: oneOrMore(z.int()),
  /** Name of the module list that holds the layers, such as "layers". */
  layersPattern: oneOrMore(z.string()),
  /** Rank of the modules whose path ends with a match of the key (a regular expression); the first key counts. */
  rankPattern: byPattern(rank).default({}),
  alphaPattern: byPattern(alpha).default({}),
  /** Scale alpha / sqrt(rank) instead of alpha / rank. */
  useRslora: z.boolean().default(false),
  /** How it begins (initializations.ts). */
  initLoraWeights: z.custom<InitialKind>((given) => initialKind(given) !== undefined, initialKinds).default(true),
  /** Of "eva", under PEFT's names; its defaults there if null. */
  evaConfig: evaSchema.nullable().default(null),
  /** Whether the frozen weights are stored as [in, out]. PEFT derives it from the layers again when it loads the file. */
  fanInFanOut: z.boolean().default(false),
  taskType: z.enum(taskTypes).nullable().default(null),
  baseModelNameOrPath: z.string().nullable().default(null),
  revision: z.string().nullable().default(null),
  inferenceMode: z.boolean().default(false),
  /** Which class PEFT loads the base with; not used here, kept when the file is written again. */
  autoMapping: z
    .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))
    .nullable()
    .default(null),
  /** Layers of the base that the adapter's model has, as ranges: some can be used again, with adapters of their own. */
  layerReplication: z
    .array(z.tuple([z.int().min(0), z.int().min(1).max(MAX_LAYERS)]))
    .min(1)
    .max(MAX_LAYERS)
    .refine(
      (ranges) => ranges.reduce((sum, [start, end]) => sum + Math.max(0, end - start), 0) <= MAX_LAYERS,
      `more than ${MAX_LAYERS} layers`,
    )
    .nullable()
    .default(null),
  ...methodSchemas,
});

/** How an adapter is made: PEFT's LoraConfig in the names of this project. */
export type LoraConfig = z.output<typeof schema>;

/** The fields of LoraConfig under PEFT's names: those in snake case, but for three. */
const peftNames = {
  ...Object.fromEntries(Object.keys(schema.shape).map((field) => [field, field.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)])),
  rank: "r",
  alpha: "lora_alpha",
  dropout: "lora_dropout",
  ...methodPeftNames,
} as Record<keyof LoraConfig, string>;

/** PEFT fields that say nothing while the options they belong to are off, and what is written for them. */
const inert: Record<string, unknown> = { megatron_core: "megatron.core", qalora_group_size: 16, peft_version: PEFT_VERSION };
/** Fields that PEFT itself drops when it reads a file, and those by which ms-swift says how it trained. */
const dropped = new Set(["runtime_config", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"]);
/** Fields that are no other with null than when they are absent, as PEFT tests them: all but those that the scale is made of. */
const isUnset = (name: string, value: unknown): boolean => value === null && name !== peftNames.rank && name !== peftNames.alpha;

/** A PEFT field that is supported only in part: its default is written, `allowed` values are read, others are refused with `why`. */
interface Limit {
  written: unknown;
  allowed: (value: unknown) => boolean;
  why: string;
}
const empty = (value: unknown) =>
  value === null || value === false || value === "" || (typeof value === "object" && Object.keys(value as object).length === 0);
const off = (why: string, written: unknown = null): Limit => ({ written, allowed: empty, why });

/** Every PEFT field that is not honoured in full: those of methods that are not built, and others. */
export const limits: Record<string, Limit> = {
  ...Object.fromEntries(unbuiltMethods.map(({ peftName, why, written }) => [peftName, off(why, written)])),
  peft_type: { written: "LORA", allowed: (value) => value === "LORA", why: "only LoRA adapters are read and trained" },
  arrow_config: off("adapters are not routed by Arrow"),
  velora_config: off("VeLoRA's compressed gradients are not computed"),
  megatron_config: off("Megatron's parallel layers do not exist here"),
  loftq_config: off("LoftQ changes the frozen weights at the start", {}),
  corda_config: off("CorDA changes the frozen weights at the start"),
  lora_ga_config: off("LoRA-GA changes the frozen weights at the start"),
};

/**
 * A LoraConfig from some of its fields; the others get PEFT's defaults.
 * Throws `lora/config` that names the field if a value is not one PEFT takes, or fields contradict each other.
 */
export function loraConfig(fields: z.input<typeof schema> = {}): LoraConfig {
  for (const key of Object.keys(fields)) {
    if (Object.hasOwn(peftNames, key)) continue;
    const expected = `one of ${nearest(key, Object.keys(peftNames)).join(", ")}`;
    throw invalid(key, "There is no such option of an adapter.", expected, key);
  }
  return parseFields(fields, (field) => field);
}

/**
 * The configuration in the text of an adapter_config.json, of any PEFT version. `path` names the file in errors.
 * Throws `lora/config` for malformed files, `lora/unsupported` for a field with a value that is not honoured.
 */
export function parseAdapterConfig(text: string, path: string): LoraConfig {
  const file = jsonObject(text, path);
  const ours = new Map(Object.entries(peftNames).map(([field, name]) => [name, field]));
  const fields: Record<string, unknown> = {};
  if (!Object.hasOwn(file, "peft_type"))
    throw invalid(path, "The file has no peft_type.", 'an adapter_config.json with "peft_type": "LORA"', "none");
  for (const [name, value] of Object.entries(file)) {
    const field = ours.get(name);
    if (field && isUnset(name, value)) continue;
    if (field) fields[field] = value;
    else if (!Object.hasOwn(inert, name) && !dropped.has(name)) refuseUnlessAllowed(name, value, path);
  }
  if (typeof fields["initLoraWeights"] === "string") fields["initLoraWeights"] = initialization(fields["initLoraWeights"], path);
  return parseFields(fields, (field) => `${path}: ${peftNames[field]}`);
}

function refuseUnlessAllowed(name: string, value: unknown, path: string): void {
  const known = Object.hasOwn(limits, name) ? limits[name] : undefined;
  const limit = known ?? off("this field is newer than the PEFT release that is followed here");
  if (limit.allowed(value)) return;
  throw new LowrankError("lora/unsupported", `${name} is not supported with this value: ${limit.why}.`, {
    subject: `${path}: ${name}`,
    expected: known ? JSON.stringify(limit.written) : "null, false or an empty value",
    got: show(value),
    next: "Use an adapter without it, or merge the adapter into its base with PEFT and use the merged model.",
  });
}

/** PEFT has more of them, which change the frozen weights or need data or gradients. */
function initialization(name: string, path: string): InitialKind {
  const kind = initialKind(name);
  if (kind !== undefined) return kind;
  throw new LowrankError("lora/unsupported", `The initialization "${name}" is not supported.`, {
    subject: `${path}: init_lora_weights`,
    expected: initialKinds,
    got: show(name),
    next: "Convert the adapter with PEFT (save_pretrained with path_initial_model_for_weight_conversion), or merge it there.",
  });
}

function parseFields(fields: unknown, subjectOf: (field: keyof LoraConfig) => string): LoraConfig {
  const parsed = schema.safeParse(fields, { reportInput: true });
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    const [field, ...rest] = issue.path as [keyof LoraConfig, ...PropertyKey[]];
    const subject = [subjectOf(field), ...rest.map(String)].join(".");
    throw invalid(subject, "The value is not valid.", issue.message, show(issue.input));
  }
  const config = { ...parsed.data };
  if (initializationOf(config.initLoraWeights).fromInputs) config.evaConfig ??= evaSchema.parse({});
  const { taskType, title } = methodOf(config);
  if (taskType !== undefined && config.taskType !== null && config.taskType !== taskType) {
    throw new LowrankError("lora/unsupported", `${title} is for ${taskType} alone.`, {
      subject: subjectOf("taskType"),
      expected: taskType,
      got: config.taskType,
      next: "Train a language model with it, or leave it out.",
    });
  }
  const regex = typeof config.targetModules === "string";
  const layers = config.layersToTransform !== null;
  // PEFT's own two rules, in LoraConfig.__post_init__.
  if (regex && (layers || config.layersPattern !== null)) {
    const field = layers ? "layersToTransform" : "layersPattern";
    const [expected, got] = ["null, or a list of target modules", `target modules ${show(config.targetModules)}`];
    throw invalid(subjectOf(field), "Layers can only be chosen for a list of target modules.", expected, got);
  }
  if (config.layersPattern?.length && !layers) {
    const subject = subjectOf("layersPattern");
    throw invalid(subject, "A layers pattern is given without layers to transform.", "layers to transform", "none");
  }
  return config;
}

/**
 * The text of the adapter_config.json that PEFT writes for `config`: all fields, sorted keys, two spaces, ASCII, no line
 * break at the end. Name lists are sorted (in PEFT's files their order is random). The entries of rankPattern and
 * alphaPattern keep their order, which decides when several match; PEFT sorts them too, and then reads others.
 */
export function formatAdapterConfig(config: LoraConfig): string {
  const file: Record<string, unknown> = { ...inert };
  for (const [name, limit] of Object.entries(limits)) file[name] = limit.written;
  for (const [field, name] of Object.entries(peftNames)) file[name] = config[field as keyof LoraConfig];
  for (const name of ["target_modules", "exclude_modules", "target_parameters"]) {
    if (Array.isArray(file[name])) file[name] = [...new Set(file[name] as string[])].sort();
  }
  return pythonJson(file);
}

/** Fields whose whole numbers are floats in Python, and fields whose order has a meaning and is kept. */
const floats = new Set(["lora_dropout", "rho", "tau"]);
const ordered = new Set(["rank_pattern", "alpha_pattern"]);

/** `json.dumps(value, indent=2, sort_keys=True)`; `field` is the member of the file that `value` belongs to. */
function pythonJson(value: unknown, field = "", indent = ""): string {
  if (typeof value === "number") return pythonNumber(value, floats.has(field));
  if (typeof value !== "object" || value === null) return asciiJson(value);
  const inner = `${indent}  `;
  const keys = ordered.has(field) ? Object.keys(value) : Object.keys(value).sort();
  const items = Array.isArray(value)
    ? value.map((item) => pythonJson(item, field, inner))
    : keys.map(
        (key) =>
          `${asciiJson(key)}: ${pythonJson((value as Record<string, unknown>)[key], ordered.has(field) ? field : key, inner)}`,
      );
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return items.length === 0 ? `${open}${close}` : `${open}\n${inner}${items.join(`,\n${inner}`)}\n${indent}${close}`;
}

const asciiJson = (value: unknown): string =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Python's repr: exponents below 1e-4 and from 1e16 on, with two digits at least. */
function pythonNumber(value: number, float: boolean): string {
  if (Number.isInteger(value) && Math.abs(value) < 1e16) return float ? value.toFixed(1) : String(value);
  if (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e16) return String(value);
  return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
}

function jsonObject(text: string, path: string): Record<string, unknown> {
  try {
    return parseJsonObject(text, path);
  } catch (error) {
    throw invalid(path, "The file holds no JSON object.", "a JSON object", (error as Error).message);
  }
}

const show = (value: unknown): string => {
  const text = valueText(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
};

const invalid = (subject: string, message: string, expected: string, got: string) =>
  new LowrankError("lora/config", message, { subject, expected, got, next: "Correct the value." });
