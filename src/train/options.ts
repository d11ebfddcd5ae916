// What a fine-tuning run is told: every option of `finetune` with its default, and run.json, from which a run is resumed.
import { z } from "zod";
import { type LoraConfig, loraConfig } from "../adapters/config.ts";
import { methodFieldsOf, methodSchemas } from "../adapters/method-table.ts";
import { trainOnChoices } from "../data/examples.ts";
import type { PromptFormat } from "../data/prompts.ts";
import type { ColumnNames } from "../data/records.ts";
import { LowrankError, nearest, valueText } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject } from "../formats/json.ts";
import { type ModelConfig, taskOf } from "../models/registry.ts";
import type { Task } from "../models/task.ts";
import { MAX_SAMPLES } from "./samples.ts";
import { optimizerDefaults } from "./trainer.ts";

/** The options of a run, kept in its output folder. */
export const RUN_NAME = "run.json";

const path = z.string().min(1);
const names = z.union([z.string().min(1), z.array(z.string().min(1))]).nullable();
const count = z.int().min(1);
/** The longest run: at a thousand steps a second, a fortnight. */
const MAX_STEPS = 1e9;
const MAX_EPOCHS = 1e6;

/** The options that make a new adapter; the values are checked by `loraConfig`. */
const loraFields = {
  /** Rows of A and columns of B. */
  rank: z.number().default(8),
  /** The update is scaled by alpha / rank. */
  alpha: z.number().default(16),
  /** Probability that an element of A's input is dropped in training. */
  dropout: z.number().default(0),
  /** Module names or ends of paths, a regular expression over the whole path, "all-linear", or "default" (null): PEFT's default of the model type. */
  targetModules: names.default("all-linear").transform((given) => (given === "default" ? null : given)),
  excludeModules: names.default(null),
  /** Only layers with these indices, counted from 0; only with a list of target modules. */
  layersToTransform: z.array(z.number()).nullable().default(null),
  /** Rank of the modules whose path ends with a match of the key. */
  rankPattern: z.record(z.string(), z.number()).default({}),
  alphaPattern: z.record(z.string(), z.number()).default({}),
  /** Scale alpha / sqrt(rank) instead of alpha / rank. */
  rslora: z.boolean().default(false),
  /** true: A uniform, B zero. "gaussian": A normal, B zero. false: both uniform. */
  init: z.union([z.boolean(), z.literal("gaussian")]).default(true),
  ...methodSchemas,
};

/** Names of the columns or keys, where they are none of the spellings in docs/data.md. */
const columnFields = {
  promptColumn: z.string().optional(),
  completionColumn: z.string().optional(),
  textColumn: z.string().optional(),
  textPairColumn: z.string().optional(),
  labelColumn: z.string().optional(),
  imageColumn: z.string().optional(),
};
/** The options that name columns. */
export const columnOptions = Object.keys(columnFields);

const schema = z.strictObject({
  /** Folder of the base checkpoint, in Hugging Face's layout. */
  base: path,
  /** Training records, in any format of docs/data.md. */
  data: path,
  /** Folder that gets checkpoints, and the adapter (or the whole model) at the end. */
  output: path,
  /** What the base is for, to be sure of it: its config says it anyway. */
  task: z.enum(["causal-lm", "sequence-classification", "image-classification", "contrastive"]).optional(),
  /** "lora" trains an adapter, "full" every weight of the base. */
  method: z.enum(["lora", "full"]).default("lora"),
  /** Folder of an adapter to go on training; its configuration takes the place of the adapter options. */
  adapter: path.optional(),
  /** Take an adapter that was made for another base of the same shape. */
  anyBase: z.boolean().default(false),
  /** What the adapter's configuration calls its base. Default: `base` as given. */
  baseName: z.string().optional(),
  ...loraFields,
  /** Records to evaluate on. */
  evalData: path.optional(),
  /** Share of the training records to evaluate on instead of training on them. */
  evalSplit: z.number().gt(0).lt(1).optional(),
  /** Steps between evaluations. Default: once an epoch; there is one at the end in any case. */
  evalEvery: count.optional(),
  ...columnFields,
  /** What the targets are: "completion" (completions and assistant turns), "last" (of a conversation the last turn only) or "all". */
  trainOn: z.enum(trainOnChoices).default("completion"),
  /** Longer examples lose tokens on the right. Default: 1024, or the model's positions if they are fewer. */
  maxLength: z.number().optional(),
  /** Several examples in one row, each seeing only itself. */
  packing: z.boolean().default(false),
  /** The date that chat templates see, as in 2025-01-31. Default: today's, kept when the run is resumed. */
  date: z.iso.date().optional(),
  /** Length of the run: passes over the data (3 if neither is given) or optimizer steps. */
  epochs: z.number().gt(0).max(MAX_EPOCHS).optional(),
  steps: count.max(MAX_STEPS).optional(),
  /** Rows of a micro-batch. */
  batchSize: count.default(4),
  /** Micro-batches of a step. */
  gradientAccumulation: count.default(1),
  /** Default: by the size of the base (learning-rate.ts). */
  learningRate: z.number().optional(),
  schedule: z.enum(["constant", "linear", "cosine"]).default(optimizerDefaults.schedule),
  /** Over which the learning rate rises from 0: a number of steps, or below 1 a share of the run. */
  warmup: z.number().min(0).default(0),
  weightDecay: z.number().default(optimizerDefaults.weightDecay),
  /** The gradient is scaled down to this 2-norm; 0 leaves it as it is. */
  maxGradNorm: z.number().default(optimizerDefaults.maxGradNorm!),
  /** LoRA+: how many times faster B learns than A. */
  loraPlusRatio: z.number().optional(),
  seed: z.int().default(0),
  /** Texts to show at every evaluation: of how many of the first evaluation records, or of the first ones of which file. */
  samples: z.union([z.int().min(0).max(MAX_SAMPLES), path]).default(0),
  /** The run ends after this many evaluations without a better loss. */
  patience: count.optional(),
  /** A loss is better if it is lower by more than this. */
  minDelta: z.number().min(0).default(0),
  /** The result is what had the best evaluation, not what the last step gave. */
  loadBest: z.boolean().default(false),
  /** Steps between checkpoints (100 if checkpointMinutes isn't given). There is one at the start and one at the end in any case. */
  checkpointEvery: count.optional(),
  /** A checkpoint is due this many minutes after the last one. */
  checkpointMinutes: z.number().positive().optional(),
  /** How many of the newest checkpoints stay; the one of the best evaluation stays beside them. */
  keepCheckpoints: count.default(2),
  /** Train although memory or disk look too small, and into a folder that holds other files. */
  force: z.boolean().default(false),
  /** Go on from the newest checkpoint of `output`, with the options that are kept there. */
  resume: z.boolean().default(false),
  /** Threads of one matrix product. Default: all cores. */
  threads: count.optional(),
});

/** The options of a run, complete. */
export type RunOptions = z.output<typeof schema>;

type Given = z.input<typeof schema>;

/** What `finetune` is told. A run that is resumed needs its output folder only; what else is given replaces what was kept. */
export type FinetuneOptions = (Given | (Partial<Given> & { output: string; resume: true })) & {
  /** When it fires, the step at work is finished and saved, and the run ends with `done {stopped: true}`. */
  signal?: AbortSignal;
};

/** Every option that has a default, with it. */
export const finetuneDefaults: Partial<RunOptions> = Object.fromEntries(
  Object.entries(schema.parse({ base: "-", data: "-", output: "-" })).filter(([, value]) => value !== "-"),
);

/** Of each pair only one can be given. */
const exclusive: [keyof RunOptions, keyof RunOptions][] = [
  ["steps", "epochs"],
  ["evalData", "evalSplit"],
  ...(Object.keys(loraFields) as (keyof typeof loraFields)[]).map((name): [keyof RunOptions, keyof RunOptions] => [
    name,
    "adapter",
  ]),
];

/**
 * The options of a run, complete and checked: those given, for a resumed run over those its output folder keeps.
 * Throws `train/option` that names the option, or `train/no-run` when there is nothing to resume.
 */
export async function readOptions(files: Files, given: Record<string, unknown>): Promise<RunOptions> {
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const kept = present["resume"] === true ? await readRun(files, present) : {};
  for (const [a, b] of exclusive) {
    if (a in present && b in present) throw refused(a, `${a} and ${b} cannot both be given`, `one of ${a} and ${b}`, "both");
    if (a in present) delete kept[b];
    if (b in present) delete kept[a];
  }
  const parsed = schema.safeParse({ ...kept, ...present }, { reportInput: true });
  if (!parsed.success) throw optionError(parsed.error.issues[0]!);
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
  return { ...options, date, baseName: baseName ?? options.base };
}

/**
 * Keeps the options in the output folder, and how the trained model is asked; paths are made absolute, so that the run can
 * be resumed from anywhere. Returns the options as kept.
 */
export async function writeRun(
  files: Files,
  options: RunOptions,
  prompts: PromptFormat | undefined,
): Promise<Record<string, unknown>> {
  const record = { version: 1, options: await keptOf(files, options), prompts };
  await files.write(`${options.output}/${RUN_NAME}`, new TextEncoder().encode(`${JSON.stringify(record, null, 2)}\n`));
  return record.options;
}

/** The options that run.json has, with absolute paths. */
async function keptOf(files: Files, options: RunOptions): Promise<Record<string, unknown>> {
  const { resume, force, output, ...kept } = options;
  for (const name of ["base", "data", "evalData", "adapter", "samples"] as const) {
    const given = kept[name];
    if (typeof given === "string") kept[name] = await absolute(files, given);
  }
  return Object.fromEntries(Object.entries(kept).filter(([name]) => !(kept.adapter && name in loraFields)));
}

/** Options that make no other run of it. */
const incidental = new Set(["date", "threads", "baseName"]);

/**
 * In what `options` differ from those kept in their output folder, as in "rank 8, here 16" (there the first); null if the
 * folder keeps none.
 */
export async function differencesFromKept(files: Files, options: RunOptions): Promise<string[] | null> {
  if (!(await files.exists(`${options.output}/${RUN_NAME}`))) return null;
  const there = await readRun(files, { output: options.output });
  const here = await keptOf(files, options);
  const told = (value: unknown) => (value === undefined ? "none" : JSON.stringify(value));
  return [...new Set([...Object.keys(there), ...Object.keys(here)])]
    .filter((name) => !incidental.has(name) && JSON.stringify(there[name]) !== JSON.stringify(here[name]))
    .map((name) => `${name} ${told(there[name])}, here ${told(here[name])}`);
}

/** A word of a command line that a shell takes for one. */
const quoted = (text: string): string => (/^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** What goes on with the run in `output`, on the command line. */
export const resumeCommand = (output: string, more = ""): string =>
  `npx lowrank train --resume${more} --output ${quoted(output)}`;

const promptFormat = z.union([
  z.object({ kind: z.enum(["messages", "text"]) }),
  z.object({ kind: z.literal("completion"), before: z.string(), after: z.string() }),
]);

/** How the model trained in `folder`, or in the run that `folder` is a checkpoint of, is asked; null if nothing there says it. */
export async function readPromptFormat(files: Files, folder: string): Promise<PromptFormat | null> {
  return promptFormat.safeParse((await runOf(files, folder))["prompts"]).data ?? null;
}

/** The run.json of the run whose result, or one of whose checkpoints, lies in `folder`; empty if there is none. */
async function runOf(files: Files, folder: string): Promise<Record<string, unknown>> {
  for (const file of [`${folder}/${RUN_NAME}`, `${folder}/../${RUN_NAME}`]) {
    if (await files.exists(file)) return readJsonObject(files, file);
  }
  return {};
}

/** What PEFT calls a task, and which modules are trained in full for it beside those that PEFT adds by itself. */
const fieldsOfTask: Record<Task | "causal-lm", Pick<LoraConfig, "taskType"> & Partial<LoraConfig>> = {
  "causal-lm": { taskType: "CAUSAL_LM" },
  "sequence-classification": { taskType: "SEQ_CLS" },
  "image-classification": { taskType: null, modulesToSave: ["classifier"] },
  contrastive: { taskType: null },
};

/** The columns that the run that trained `folder` was told; none if nothing there says it. */
export async function readRunColumns(files: Files, folder: string): Promise<ColumnNames> {
  return z.object(columnFields).safeParse((await runOf(files, folder))["options"]).data ?? {};
}

/** The configuration of a new adapter. */
export const loraConfigOf = ({ init, rslora, baseName, ...options }: RunOptions, config: ModelConfig): LoraConfig =>
  loraConfig({
    rank: options.rank,
    alpha: options.alpha,
    dropout: options.dropout,
    targetModules: options.targetModules,
    excludeModules: options.excludeModules,
    layersToTransform: options.layersToTransform,
    rankPattern: options.rankPattern,
    alphaPattern: options.alphaPattern,
    useRslora: rslora,
    initLoraWeights: init,
    ...methodFieldsOf(options),
    ...fieldsOfTask[taskOf(config)],
    baseModelNameOrPath: baseName,
  });

/** The options kept in the output folder; none if the run can start without them. */
async function readRun(files: Files, given: Record<string, unknown>): Promise<Record<string, unknown>> {
  const file = `${given["output"]}/${RUN_NAME}`;
  if (!(await files.exists(file))) {
    if ("base" in given && "data" in given) return {};
    throw new LowrankError("train/no-run", "there is no run to resume in the folder", {
      subject: String(given["output"]),
      expected: RUN_NAME,
      next: "Give the output folder of the run, or base and data to start one.",
    });
  }
  const { version, options } = await readJsonObject(files, file);
  if (version === 1 && typeof options === "object" && options !== null) return { ...options };
  throw new LowrankError("train/no-run", "the file does not hold the options of a run", {
    subject: file,
    expected: '{"version": 1, "options": {…}}',
    got: `version ${valueText(version)}`,
    next: "Give the options again, with a lowrank of the version that wrote the file.",
  });
}

/** The folder of `file` with links resolved; the name as it is, since it tells the kind of file. */
async function absolute(files: Files, file: string): Promise<string> {
  const [, folder, name] = /^(.*?)([^/]+)\/*$/.exec(file) ?? ["", file, ""];
  const real = await files.realPath(folder || ".");
  return `${real.replace(/\/$/, "")}/${name}`;
}

function optionError(issue: z.core.$ZodIssue): LowrankError {
  if (issue.code === "unrecognized_keys") {
    const key = issue.keys[0]!;
    const known = nearest(key, Object.keys(schema.shape)).join(", ");
    return refused(key, "there is no such option", `one of ${known}`, key);
  }
  const subject = issue.path.map(String).join(".");
  if (issue.input === undefined) return refused(subject, "the option is required", issue.message, "nothing");
  return refused(subject, "this value can't be trained with", issue.message, valueText(issue.input));
}

const refused = (subject: string, message: string, expected: string, got: string): LowrankError =>
  new LowrankError("train/option", message, { subject, expected, got, next: `Change ${subject}, or leave it out.` });
