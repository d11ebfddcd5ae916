// The options of a fine-tuning run: each with its type, default and help, and what they are together.
import { z } from "zod";
import { biasChoices, type LoraConfig, loraConfig, rowsSchema } from "../adapters/config.ts";
import { evaSchema } from "../adapters/eva.ts";
import { initializationOf, initializations, initialKind, initialKinds } from "../adapters/initializations.ts";
import { methodFieldsOf, methodHelp, methodSchemas, methodTexts, type TextName } from "../adapters/method-table.ts";
import { trainOnChoices } from "../data/examples.ts";
import { LowrankError, nearest, valueText } from "../errors.ts";
import { describeOptions, option, pick } from "../options.ts";
import { deviceChoices } from "../runtime/devices.ts";
import { MAX_THREADS } from "../runtime/session.ts";
import { taskNames, taskOptions } from "../tasks/index.ts";
import type { Task } from "../tasks/task.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { executionDtypes, memoryModeNames } from "./execution.ts";
import { optimizerNames, optimizers } from "./optimizer.ts";
import { MAX_SAMPLES } from "./samples.ts";
import { optimizerDefaults } from "./trainer.ts";

const path = z.string().min(1);
const names = z.union([z.string().min(1), z.array(z.string().min(1))]).nullable();
const initOption = z
  .union([z.boolean(), z.string()])
  .refine((given) => initialKind(given) !== undefined, initialKinds)
  .transform((given) => initialKind(given)!)
  .default(true);
const count = z.int().min(1);
/** The longest run: at a thousand steps a second, a fortnight. */
const MAX_STEPS = 1e9;
const MAX_EPOCHS = 1e6;

/** Names with commas between them are a list; "all-linear", and what has other characters, is a regular expression; null, which commander can't hold, is "default". */
export function parseNames(text: string): string | string[] {
  if (text === "default" || text === "null") return "default";
  return text !== "all-linear" && /^[\w.-]+(,[\w.-]+)*$/.test(text) ? text.split(",") : text;
}
/** Numbers with commas between them, or JSON; what is neither is left to the check. */
function parseRows(text: string): unknown {
  if (/^\d+(,\d+)*$/.test(text)) return text.split(",").map(Number);
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
const moduleNames = { value: "NAMES", expected: "names, a regular expression, all-linear, or default", parse: parseNames };
const targetNames = names.default("all-linear").transform((given) => (given === "default" ? null : given));

/** The options that adapter methods add. */
export const methodOptions = Object.fromEntries(
  methodHelp.map(({ name, ...info }) => [name, option(methodSchemas[name as keyof typeof methodSchemas] as z.ZodType, info)]),
) as unknown as typeof methodSchemas;

/** Those that give tokens of a method's field as text. */
const textOptions = Object.fromEntries(
  methodTexts.map(({ name, help, field }) => [
    name,
    option(z.string().min(1).optional(), { value: "TEXT", excludes: field, help }),
  ]),
) as Record<TextName, z.ZodOptional<z.ZodString>>;

/** The options with the tokens of such texts in their fields, as they are inside of a longer text. */
export async function withTextTokens(options: RunOptions, tokenizer: () => Promise<Tokenizer>): Promise<RunOptions> {
  const given = methodTexts.filter(({ name }) => options[name] !== undefined);
  if (given.length === 0) return options;
  const { encode } = await tokenizer();
  const tokens = given.map(({ name, field }) => [field, [...encode(options[name]!, { addSpecialTokens: false })]]);
  return { ...options, ...Object.fromEntries(tokens) };
}

/** The options that make a new adapter; the values are checked by `loraConfig`. */
const loraOptions = {
  rank: option(z.number().default(8), { section: "adapter", help: "rank of the adapter" }),
  alpha: option(z.number().default(16), { section: "adapter", help: "the update is scaled by alpha / rank" }),
  dropout: option(z.number().default(0), { value: "P", section: "adapter", help: "dropout on the adapter's input" }),
  targetModules: option(targetNames, {
    ...moduleNames,
    section: "adapter",
    help: "names with commas between them, a regular expression over the whole path, all-linear, or default: PEFT's choice for the model type",
  }),
  excludeModules: option(names.default(null), {
    ...moduleNames,
    help: "names with commas between them, or a regular expression",
  }),
  targetParameters: option(z.array(z.string()).nullable().default(null), {
    value: "NAMES",
    commas: true,
    help: "also weights that are in no linear layer: those of experts and routers, such as mlp.experts.gate_up_proj",
  }),
  layersToTransform: option(z.array(z.number()).nullable().default(null), {
    value: "N,N,…",
    commas: true,
    help: "only these layers, counted from 0",
  }),
  layerReplication: option(
    z
      .array(z.tuple([z.number(), z.number()]))
      .nullable()
      .default(null),
    {
      value: "START:END,…",
      expected: "ranges of layers, as in 0:16,8:24",
      parse: (text) => text.split(",").map((range) => range.split(":").map(Number)),
      help: "use layers of the base again, each with an adapter of its own: ranges of layers, as in 0:16,8:24",
    },
  ),
  rankPattern: option(z.record(z.string(), z.number()).default({}), {
    value: "JSON",
    help: 'ranks of some modules, as in {"q_proj": 4}',
  }),
  alphaPattern: option(z.record(z.string(), z.number()).default({}), {
    value: "JSON",
    help: 'alphas of some modules, as in {"q_proj": 8}',
  }),
  ranksFrom: option(path.optional(), {
    value: "ADAPTER",
    model: true,
    help: "ranks and targets from an adapter: of each module the least rank that holds 99 % of its update's energy there",
  }),
  rslora: option(z.boolean().default(false), { help: "scale by alpha / sqrt(rank)" }),
  init: option(initOption, {
    value: "KIND",
    expected: initialKinds,
    parse: (text) => (text === "true" || text === "false" ? text === "true" : text),
    help: `initialization. ${Object.entries(initializations)
      .map(([name, { about }]) => `${name}: ${about}`)
      .join("; ")}`,
  }),
  evaConfig: option(evaSchema.nullable().default(null), {
    value: "JSON",
    help: 'of --init eva, PEFT\'s EvaConfig, as in {"rho": 1.5}: a rank is at most rho times --rank',
  }),
  ...methodOptions,
  modulesToSave: option(z.array(z.string().min(1)).nullable().default(null), {
    value: "NAME,NAME,…",
    commas: true,
    help: "modules that are trained in full beside the adapter, such as embed_tokens,lm_head or mlp, and stored with it",
  }),
  trainableTokenIndices: option(rowsSchema, {
    value: "N,N,…",
    expected: 'token ids, or rows of several modules as in {"embed_tokens": [7], "lm_head": [7]}',
    parse: parseRows,
    help: 'tokens whose rows of the embedding are trained: ids with commas between them, or {"embed_tokens": [7], "lm_head": [7]}',
  }),
  ensureWeightTying: option(z.boolean().default(false), {
    help: "train a tied embedding and output layer as one (with modulesToSave, trainableTokenIndices)",
  }),
  bias: option(z.enum(biasChoices).default("none"), { value: "WHICH", help: "which biases of the base are trained" }),
  ...textOptions,
};

/** Names of the columns or keys, where they are none of the spellings in docs/data.md. */
export const columnOptions = {
  promptColumn: option(z.string().optional(), {
    value: "NAME",
    help: "the column or key of prompts, where docs/data.md does not list it",
  }),
  completionColumn: option(z.string().optional(), { value: "NAME", help: "the column of completions" }),
  textColumn: option(z.string().optional(), { value: "NAME", help: "the column of texts" }),
  textPairColumn: option(z.string().optional(), { value: "NAME", help: "text classifiers: the column of second texts" }),
  labelColumn: option(z.string().optional(), { value: "NAME", help: "classifiers: the column of classes" }),
  imageColumn: option(z.string().optional(), { value: "NAME", help: "image models: the column of image paths" }),
  // Those of tasks, whose types `taskOptions` has.
  ...(Object.fromEntries(Object.entries(taskOptions).filter(([name]) => name.endsWith("Column"))) as Record<never, never>),
};

/** How records are read, in training and elsewhere. */
export const readingOptions = {
  ...columnOptions,
  trainOn: option(z.enum(trainOnChoices).default("completion"), {
    value: "PART",
    help: "which tokens are targets: completions and every assistant turn, only the last turn, or all",
  }),
  maxLength: option(z.number().optional(), {
    value: "TOKENS",
    section: "run",
    help: "longer examples are truncated on the right (1024, or 2048 where the model reads images; its positions if fewer)",
  }),
  strictText: option(z.boolean().default(false), {
    help: "refuse records whose texts hold control tokens (<|im_start|>) or halves of characters, instead of counting them",
  }),
  date: option(z.iso.date().optional(), { value: "YYYY-MM-DD", help: "the date that chat templates see (today)" }),
  ...taskOptions,
};

/** What a base is trained, evaluated or used for. */
export const taskOption = option(z.enum(taskNames).optional(), {
  help: "what to train the base for (read from its config.json or the adapter)",
});

/** Every option of a run, in the order of `lowrank train --help`. */
export const runOptions = {
  base: option(path, {
    value: "MODEL",
    section: "what",
    model: true,
    help: "the base model: a checkpoint folder in Hugging Face's layout, a GGUF file, embedded, or owner/name[@revision] on the hub",
  }),
  data: option(path, {
    value: "FILE",
    section: "what",
    help: "training records: .jsonl, .json, .csv, .tsv, .parquet, .txt or .md; of images also a folder (docs/data.md)",
  }),
  output: option(path, { value: "FOLDER", section: "what", help: "folder for checkpoints and the final adapter or model" }),
  task: taskOption,
  method: option(z.enum(["lora", "full"]).default("lora"), {
    section: "what",
    help: "train an adapter, or every weight of the base",
  }),
  adapter: option(path.optional(), {
    value: "ADAPTER",
    model: true,
    help: "continue training this adapter: a folder, or owner/name[@revision] on the hub",
  }),
  anyBase: option(z.boolean().default(false), { help: "accept an adapter made for another base of the same shape" }),
  baseName: option(z.string().optional(), { value: "NAME", help: "the base's name in adapter_config.json (--base as given)" }),
  ...loraOptions,
  evalData: option(path.optional(), { value: "FILE", section: "what", excludes: "evalSplit", help: "records to evaluate on" }),
  evalSplit: option(z.number().gt(0).lt(1).optional(), {
    value: "SHARE",
    section: "what",
    help: "evaluate on this share of the training records instead",
  }),
  evalEvery: option(count.optional(), { value: "STEPS", help: "steps between evaluations (an epoch's)" }),
  ...readingOptions,
  packing: option(z.boolean().default(false), { help: "pack several examples into one row, each attending only to itself" }),
  groupByLength: option(z.boolean().default(true), {
    help: "rows of like length in a batch, which saves padding (Transformers' group_by_length); --no-group-by-length shuffles them alone",
  }),
  epochs: option(z.number().gt(0).max(MAX_EPOCHS).optional(), { section: "run", help: "passes over the data (3)" }),
  steps: option(count.max(MAX_STEPS).optional(), {
    section: "run",
    excludes: "epochs",
    help: "optimizer steps, instead of epochs",
  }),
  batchSize: option(count.default(4), { section: "run", help: "rows per micro-batch" }),
  gradientAccumulation: option(count.default(1), { section: "run", help: "micro-batches per optimizer step" }),
  learningRate: option(z.number().optional(), {
    value: "X",
    section: "run",
    help: "the highest learning rate (by the size of the base: 3e-3 up to 30 million parameters, 1e-3 up to 300, 2e-4 beyond)",
  }),
  schedule: option(z.enum(["constant", "linear", "cosine"]).default(optimizerDefaults.schedule), {
    section: "run",
    help: "the learning rate's schedule",
  }),
  warmup: option(z.number().min(0).default(0), { section: "run", help: "warm-up steps, or below 1 a share of the run" }),
  optimizer: option(z.enum(optimizerNames).default("adamw"), {
    help: optimizerNames.map((name) => `${name}: ${optimizers[name].about}`).join("; "),
  }),
  weightDecay: option(z.number().default(optimizerDefaults.weightDecay), { value: "X", help: "AdamW's decoupled weight decay" }),
  maxGradNorm: option(z.number().default(optimizerDefaults.maxGradNorm!), {
    value: "X",
    help: "gradients are clipped to this norm; 0 disables clipping",
  }),
  loraPlusRatio: option(z.number().optional(), { value: "X", help: "LoRA+: how many times faster B learns than A" }),
  seed: option(z.int().default(0), { help: "random seed; the same seed gives the same result, bit for bit" }),
  samples: option(z.union([z.int().min(0).max(MAX_SAMPLES), path]).default(0), {
    value: "N|FILE",
    expected: "a number of records, or a file",
    help: "show what the adapter writes at every evaluation, for the first N evaluation records or those of FILE; opens the base twice",
  }),
  patience: option(count.optional(), { help: "stop after N evaluations without a better loss" }),
  minDelta: option(z.number().min(0).default(0), { value: "X", help: "a loss is better if it is lower by more than X" }),
  loadBest: option(z.boolean().default(false), { help: "keep the weights of the best evaluation, not of the last step" }),
  checkpointEvery: option(count.optional(), {
    value: "STEPS",
    help: "steps between checkpoints (100 without --checkpoint-minutes)",
  }),
  checkpointMinutes: option(z.number().positive().optional(), { value: "MINUTES", help: "minutes between checkpoints" }),
  keepCheckpoints: option(count.default(2), { help: "how many of the newest are kept, besides the best evaluation's" }),
  force: option(z.boolean().default(false), {
    section: "none",
    help: "train even if memory or disk look too small or the folder holds other files",
  }),
  resume: option(z.boolean().default(false), {
    section: "none",
    help: "resume from the newest checkpoint of --output, with the options stored there",
  }),
  baseDtype: option(z.enum(executionDtypes).default("auto"), {
    value: "DTYPE",
    help: "what the frozen base is kept in; auto: float32, or its own 16 bits where memory is short, which gives the same numbers",
  }),
  memory: option(z.enum(memoryModeNames).default("auto"), {
    value: "MODE",
    help: "keep all of the forward pass, keep products, recompute each layer, or also stream the base from disk; auto: the fastest that fits",
  }),
  device: option(z.enum(deviceChoices).optional(), {
    value: "DEVICE",
    help: "what computes: the processor, a graphics card (docs/devices.md), or auto, the one that multiplies fastest here (cpu)",
  }),
  threads: option(count.max(MAX_THREADS).optional(), { help: "threads of one matrix product (all cores)" }),
};

const schema = z.strictObject(runOptions);

/** The options of a run, complete. */
export type RunOptions = z.output<typeof schema>;

type GivenOptions = z.input<typeof schema>;

/** The options of `finetune`. A run that is resumed needs its output folder only; what else is given replaces what was kept. */
export type FinetuneOptions = (GivenOptions | (Partial<GivenOptions> & { output: string; resume: true })) & {
  /** When it fires, the step at work is finished and saved, and the run ends with `done {stopped: true}`. */
  signal?: AbortSignal;
};

/** Every option that has a default, with it. */
export const finetuneDefaults: Partial<RunOptions> = Object.fromEntries(
  Object.entries(schema.parse({ base: "-", data: "-", output: "-" })).filter(([, value]) => value !== "-"),
);

/** Pairs of options of which only one can be given. */
const exclusive = [
  ...describeOptions(runOptions).flatMap(({ name, excludes }) => (excludes ? [[name, excludes] as const] : [])),
  ...Object.keys(loraOptions).map((name) => [name, "adapter"] as const),
  ...["rank", "alpha", "rankPattern", "alphaPattern", "targetModules"].map((name) => [name, "ranksFrom"] as const),
];

/** Whether the option is one of a new adapter, which an adapter that exists brings itself. */
export const isAdapterOption = (name: string): boolean => name in loraOptions;

/**
 * The options of a run, complete and checked: those given, over those that a resumed run kept.
 * Throws `train/option` that names the option.
 */
export function completeOptions(given: Record<string, unknown>, kept: Record<string, unknown> = {}): RunOptions {
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const before = { ...kept };
  for (const [a, b] of exclusive) {
    if (a in present && b in present) throw refused(a, `${a} and ${b} cannot both be given`, `one of ${a} and ${b}`, "both");
    if (a in present) delete before[b];
    if (b in present) delete before[a];
  }
  const parsed = schema.safeParse({ ...before, ...present }, { reportInput: true });
  if (!parsed.success) throw optionError(parsed.error.issues[0]!, schema);
  const { date = new Date().toISOString().slice(0, 10), baseName, ...options } = parsed.data;
  if (options.steps === undefined) options.epochs ??= 3;
  if (options.checkpointMinutes === undefined) options.checkpointEvery ??= 100;
  const evaluates = options.evalData !== undefined || options.evalSplit !== undefined;
  const wantsEvals = { patience: options.patience !== undefined, loadBest: options.loadBest, samples: options.samples !== 0 };
  for (const [name, wanted] of Object.entries(wantsEvals)) {
    if (wanted && !evaluates)
      throw refused(name, "the run has no evaluations", "evalData or evalSplit beside it", "neither of them");
  }
  if (wantsEvals.samples && options.method === "full")
    throw refused("samples", "only an adapter can be sampled while it is trained", 'samples with the method "lora"', "full");
  if (options.evaConfig && !initializationOf(options.init).fromInputs)
    throw refused("evaConfig", "the run does not begin by EVA", 'init "eva" beside it', String(options.init));
  const { constant } = optimizers[options.optimizer];
  const facts = { loraPlusRatio: options.loraPlusRatio !== undefined, method: options.method === "full" };
  for (const [name, isGiven] of Object.entries(facts)) {
    if (isGiven && constant.length > 0)
      throw refused(
        name,
        `the optimizer ${options.optimizer} leaves ${constant.join(", ")} of an adapter as it begins`,
        "adamw",
        options.optimizer,
      );
  }
  if (options.layerReplication && options.method === "full")
    throw refused("layerReplication", "only an adapter can use layers again", 'the method "lora"', "full");
  return { ...options, date, baseName: baseName ?? options.base };
}

/** The configuration of a new adapter. */
export const loraConfigOf = (
  { init, rslora, baseName, modulesToSave, ...options }: RunOptions,
  { peft }: Pick<Task, "peft">,
): LoraConfig =>
  loraConfig({
    ...pick(options, "rank", "alpha", "dropout", "rankPattern", "alphaPattern"),
    ...pick(options, "targetModules", "excludeModules", "targetParameters", "layersToTransform", "layerReplication"),
    useRslora: rslora,
    initLoraWeights: init,
    evaConfig: options.evaConfig,
    ...methodFieldsOf(options),
    ...pick(options, "trainableTokenIndices", "ensureWeightTying", "bias"),
    ...peft,
    modulesToSave:
      modulesToSave || peft.modulesToSave ? [...new Set([...(peft.modulesToSave ?? []), ...(modulesToSave ?? [])])] : null,
    baseModelNameOrPath: baseName,
  });

/** What is wrong with options that were parsed with `reportInput`. */
export function optionError(issue: z.core.$ZodIssue, { shape }: z.ZodObject): LowrankError {
  if (issue.code === "unrecognized_keys" && issue.path.length === 0) {
    const key = issue.keys[0]!;
    const known = nearest(key, Object.keys(shape)).join(", ");
    return refused(key, "there is no such option", `one of ${known}`, key);
  }
  const subject = issue.path.map(String).join(".");
  if (issue.input === undefined) return refused(subject, "the option is required", issue.message, "nothing");
  return refused(subject, "this value can't be trained with", issue.message, valueText(issue.input));
}

const refused = (subject: string, message: string, expected: string, got: string): LowrankError =>
  new LowrankError("train/option", message, { subject, expected, got, next: `Change ${subject}, or leave it out.` });

/** By the parameters of the base; what docs/choosing.md measures is in the middle of what works there. */
const RATES = [
  { upTo: 30e6, learningRate: 3e-3 },
  { upTo: 300e6, learningRate: 1e-3 },
  { upTo: Number.POSITIVE_INFINITY, learningRate: optimizerDefaults.learningRate },
];

/** A learning rate to begin with, for a base of so many parameters. */
export const usualLearningRate = (method: "lora" | "full", parameters: number): number =>
  method === "full" ? optimizerDefaults.learningRate : RATES.find(({ upTo }) => parameters <= upTo)!.learningRate;
