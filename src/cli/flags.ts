// Every flag of every command, once: the command line, config files, help and docs/cli.md are read from these tables.

import { methodHelp } from "../adapters/method-table.ts";
import { CHAT_NEW_TOKENS } from "../commands/chat/chat.ts";
import { SHOWN_CLASSES } from "../commands/classify/inputs.ts";
import { goals } from "../commands/init/goals.ts";
import { trainOnChoices } from "../data/examples.ts";
import { finetuneDefaults } from "../train/options.ts";

/** How a flag's value is written and what it becomes. */
export type Kind = "text" | "texts" | "list" | "number" | "numbers" | "boolean" | "names" | "object" | "init" | "samples";

export interface Flag {
  /** The name in config files and in the API; on the command line it is in kebab case, behind two dashes. */
  name: string;
  kind: Kind;
  /** What help calls the value. */
  value?: string;
  help: string;
  choices?: readonly string[];
  required?: boolean;
  default?: unknown;
  /** The value names a model (hub/reference.ts); the command gets its folder. */
  model?: boolean;
}

export interface CommandTable {
  summary: string;
  /** A value without a flag. */
  argument?: { name: string; help: string; model?: boolean; many?: boolean; optional?: boolean };
  flags: Flag[];
}

const base: Flag = {
  name: "base",
  kind: "text",
  value: "MODEL",
  help: "the base model: a checkpoint folder in Hugging Face's layout, embedded, or owner/name[@revision] on the hub",
  required: true,
  model: true,
};
const adapter = (help: string): Flag => ({ name: "adapter", kind: "text", value: "ADAPTER", help, model: true });
const anyBase: Flag = {
  name: "anyBase",
  kind: "boolean",
  help: "take an adapter that was made for another base of the same shape",
};
const threads: Flag = { name: "threads", kind: "number", value: "N", help: "threads of one matrix product (all cores)" };

/** What texts and images are given to a prediction with. */
const textInput: Flag = { name: "text", kind: "texts", value: "TEXT", help: "a text; can be repeated (lines of standard input)" };
const imageInput: Flag = {
  name: "image",
  kind: "texts",
  value: "FILE",
  help: "an image: PNG, JPEG or WebP; can be repeated, and files can follow the flags as well",
};
const imageFiles = { name: "files", help: "image files", many: true, optional: true };

const dataFlags: Flag[] = [
  {
    name: "promptColumn",
    kind: "text",
    value: "NAME",
    help: "the column or key of prompts, where docs/data.md does not list it",
  },
  { name: "completionColumn", kind: "text", value: "NAME", help: "that of completions" },
  { name: "textColumn", kind: "text", value: "NAME", help: "that of texts" },
  { name: "textPairColumn", kind: "text", value: "NAME", help: "of a text classifier: that of second texts" },
  { name: "labelColumn", kind: "text", value: "NAME", help: "of a classifier: that of classes" },
  {
    name: "imageColumn",
    kind: "text",
    value: "NAME",
    help: "of a model that classifies images or compares them with texts: that of their paths",
  },
  {
    name: "trainOn",
    kind: "text",
    value: "PART",
    choices: trainOnChoices,
    help: "which tokens are targets: completions and every assistant turn, only the last turn, or all",
  },
  {
    name: "maxLength",
    kind: "number",
    value: "TOKENS",
    help: "longer examples are cut on the right (1024, or 2048 where the model reads images; its positions if fewer)",
  },
  { name: "date", kind: "text", value: "YYYY-MM-DD", help: "the date that chat templates see (today)" },
];

const data: Flag = {
  name: "data",
  kind: "text",
  value: "FILE",
  help: "training records: .jsonl, .json, .csv, .tsv, .parquet, .txt or .md; of images also a folder (docs/data.md)",
  required: true,
};
const evalFlags: Flag[] = [
  { name: "evalData", kind: "text", value: "FILE", help: "records to evaluate on" },
  { name: "evalSplit", kind: "number", value: "SHARE", help: "evaluate on this share of the training records instead" },
];

const training: Flag[] = [
  base,
  data,
  {
    name: "output",
    kind: "text",
    value: "FOLDER",
    help: "gets checkpoints, and the adapter or model at the end",
    required: true,
  },
  {
    name: "task",
    kind: "text",
    value: "NAME",
    choices: ["causal-lm", "sequence-classification", "image-classification", "contrastive"],
    help: "what the base has to be for (its config.json says what it is for)",
  },
  {
    name: "method",
    kind: "text",
    value: "NAME",
    choices: ["lora", "full"],
    help: "train an adapter, or every weight of the base",
  },
  adapter("go on training this adapter: a folder, or owner/name[@revision] on the hub"),
  anyBase,
  { name: "baseName", kind: "text", value: "NAME", help: "what adapter_config.json calls the base (--base as given)" },
  { name: "rank", kind: "number", value: "N", help: "rank of the adapter" },
  { name: "alpha", kind: "number", value: "N", help: "the update is scaled by alpha / rank" },
  { name: "dropout", kind: "number", value: "P", help: "dropout on the adapter's input" },
  {
    name: "targetModules",
    kind: "names",
    value: "NAMES",
    help: "names with commas between them, a regular expression over the whole path, all-linear, or default: PEFT's choice for the model type",
  },
  { name: "excludeModules", kind: "names", value: "NAMES", help: "names with commas between them, or a regular expression" },
  { name: "layersToTransform", kind: "numbers", value: "N,N,…", help: "only these layers, counted from 0" },
  { name: "rankPattern", kind: "object", value: "JSON", help: 'ranks of some modules, as in {"q_proj": 4}' },
  { name: "alphaPattern", kind: "object", value: "JSON", help: 'alphas of some modules, as in {"q_proj": 8}' },
  { name: "rslora", kind: "boolean", help: "scale by alpha / sqrt(rank)" },
  ...methodHelp.map(({ name, help }): Flag => ({ name, kind: "boolean", help })),
  {
    name: "init",
    kind: "init",
    value: "KIND",
    choices: ["true", "gaussian", "false"],
    help: "first values. true: A uniform, B zero; gaussian: A normal, B zero; false: both uniform",
  },
  ...evalFlags,
  { name: "evalEvery", kind: "number", value: "STEPS", help: "steps between evaluations (an epoch's)" },
  ...dataFlags,
  { name: "packing", kind: "boolean", help: "put several examples into one row, each seeing only itself" },
  { name: "epochs", kind: "number", value: "N", help: "passes over the data (3)" },
  { name: "steps", kind: "number", value: "N", help: "optimizer steps, instead of epochs" },
  { name: "batchSize", kind: "number", value: "N", help: "rows of a micro-batch" },
  { name: "gradientAccumulation", kind: "number", value: "N", help: "micro-batches of a step" },
  {
    name: "learningRate",
    kind: "number",
    value: "X",
    help: "the highest learning rate (by the size of the base: 3e-3 up to 30 million parameters, 1e-3 up to 300, 2e-4 beyond)",
  },
  {
    name: "schedule",
    kind: "text",
    value: "NAME",
    choices: ["constant", "linear", "cosine"],
    help: "how the learning rate falls",
  },
  { name: "warmup", kind: "number", value: "N", help: "steps over which it rises, or below 1 a share of the run" },
  { name: "weightDecay", kind: "number", value: "X", help: "AdamW's decoupled weight decay" },
  { name: "maxGradNorm", kind: "number", value: "X", help: "gradients are scaled down to this norm; 0 leaves them" },
  { name: "loraPlusRatio", kind: "number", value: "X", help: "LoRA+: how many times faster B learns than A" },
  { name: "seed", kind: "number", value: "N", help: "the same seed gives the same bits" },
  {
    name: "samples",
    kind: "samples",
    value: "N|FILE",
    help: "show what the adapter writes at every evaluation, for the first N evaluation records or those of FILE; opens the base twice",
  },
  { name: "patience", kind: "number", value: "N", help: "end after N evaluations without a better loss" },
  { name: "minDelta", kind: "number", value: "X", help: "a loss is better if it is lower by more than X" },
  { name: "loadBest", kind: "boolean", help: "the result is what had the best evaluation, not what the last step gave" },
  {
    name: "checkpointEvery",
    kind: "number",
    value: "STEPS",
    help: "steps between checkpoints (100 without --checkpoint-minutes)",
  },
  { name: "checkpointMinutes", kind: "number", value: "MINUTES", help: "minutes between checkpoints" },
  { name: "keepCheckpoints", kind: "number", value: "N", help: "how many of the newest stay, beside the best evaluation's" },
  {
    name: "force",
    kind: "boolean",
    help: "train although memory or disk look too small, and into a folder that holds other files",
  },
  { name: "resume", kind: "boolean", help: "go on from the newest checkpoint of --output, with the options kept there" },
  threads,
];

/** The flags of training on which memory and time depend. */
const plannedNames = [
  ...["method", "rank", "dropout", "targetModules", "excludeModules", "layersToTransform", "rankPattern"],
  ...["maxLength", "epochs", "batchSize", "gradientAccumulation", "keepCheckpoints", "threads"],
];

const tables = {
  demo: {
    summary: "fine-tune the embedded model in a minute: free text to JSON, before and after",
    flags: [{ name: "output", kind: "text", value: "FOLDER", help: "gets the adapter (lowrank-demo, or a free name like it)" }],
  },
  preview: {
    summary: "what a run would train on: examples with the trained tokens marked, lengths, losses, duplicates",
    flags: [
      base,
      data,
      ...evalFlags,
      { name: "seed", kind: "number", value: "N", help: "the run's, which chooses the records of --eval-split", default: 0 },
      ...dataFlags,
      { name: "examples", kind: "number", value: "N", help: "how many examples are shown", default: 3 },
      { name: "ids", kind: "boolean", help: "with --json, the examples' token ids too" },
    ],
  },
  train: { summary: "fine-tune a model on a data file", flags: training },
  plan: {
    summary: "what training would take, from config.json alone: modules, parameters, sizes of files, memory, time",
    argument: {
      name: "model",
      help: "a config.json, a checkpoint folder, embedded, a model in the hub's cache, or - for a config.json on standard input",
    },
    flags: [
      ...training.filter(({ name }) => plannedNames.includes(name)),
      { name: "examples", kind: "number", value: "N", help: "number of training examples, to tell how long the run takes" },
    ],
  },
  eval: {
    summary:
      "how well a model does on a data file, with and without an adapter: loss, perplexity, exact answers; accuracy and F1; recall",
    flags: [
      base,
      { name: "data", kind: "text", value: "FILE", help: "records, in a format as for training", required: true },
      adapter("an adapter to evaluate beside the base"),
      anyBase,
      ...dataFlags,
      { name: "generate", kind: "boolean", help: "also answer every prompt greedily, and count the answers that are exact" },
      {
        name: "template",
        kind: "texts",
        value: "TEXT",
        help: "of a model that compares images and texts, on images with classes: what makes a text of a class (a photo of a {}); can be repeated, the mean counts",
      },
      { name: "limit", kind: "number", value: "N", help: "with --generate: only the first N records are answered" },
      {
        name: "batchSize",
        kind: "number",
        value: "N",
        help: "rows that are run at once (4; of other models than language models 32), among which a contrastive model finds its pairs",
      },
      threads,
    ],
  },
  generate: {
    summary: "continue a prompt, or answer a conversation",
    flags: [
      base,
      adapter("an adapter to attach"),
      anyBase,
      { name: "prompt", kind: "text", value: "TEXT", help: "the text to continue (standard input)" },
      { name: "messages", kind: "text", value: "FILE", help: 'a conversation to answer: JSON, [{"role": …, "content": …}, …]' },
      {
        name: "image",
        kind: "texts",
        value: "FILE",
        help: "a PNG, JPEG or WebP file, for models that read images: it comes before the prompt; can be repeated",
      },
      { name: "maxNewTokens", kind: "number", value: "N", help: "most tokens to generate", default: 256 },
      { name: "temperature", kind: "number", value: "X", help: "0 takes the likeliest token", default: 0 },
      { name: "topK", kind: "number", value: "N", help: "only the N likeliest tokens; 0 keeps all", default: 0 },
      { name: "topP", kind: "number", value: "P", help: "only the likeliest tokens that make up this mass", default: 1 },
      { name: "repetitionPenalty", kind: "number", value: "X", help: "above 1, tokens seen before are less likely", default: 1 },
      { name: "stop", kind: "texts", value: "TEXT", help: "ends before this text; can be repeated" },
      { name: "seed", kind: "number", value: "N", help: "the same seed gives the same text", default: 0 },
      threads,
    ],
  },
  chat: {
    summary: "talk to a model in the terminal, with adapters switched on, off and compared",
    flags: [
      base,
      { ...adapter("an adapter; can be repeated, the first one is attached"), kind: "texts" },
      { name: "system", kind: "text", value: "TEXT", help: "the system message" },
      { name: "compare", kind: "boolean", help: "each answer by the base and by the adapter" },
      {
        name: "raw",
        kind: "boolean",
        help: "messages are continued as they are; --no-raw: always by the chat template (as the model was trained)",
      },
      { name: "maxNewTokens", kind: "number", value: "N", help: "most tokens of an answer", default: CHAT_NEW_TOKENS },
      { name: "temperature", kind: "number", value: "X", help: "0 takes the likeliest token (as generation_config.json says)" },
      { name: "topK", kind: "number", value: "N", help: "only the N likeliest tokens; 0 keeps all (likewise)" },
      { name: "topP", kind: "number", value: "P", help: "only the likeliest tokens that make up this mass (likewise)" },
      { name: "seed", kind: "number", value: "N", help: "the same seed gives the same conversation", default: 0 },
      threads,
    ],
  },
  classify: {
    summary: "tell the class of texts or images, by a classifier or by labels of your own (CLIP)",
    argument: imageFiles,
    flags: [
      base,
      adapter("an adapter to attach, with its classes"),
      anyBase,
      textInput,
      { name: "textPair", kind: "text", value: "TEXT", help: "the second text of each, for a model that judges pairs" },
      imageInput,
      {
        name: "labels",
        kind: "list",
        value: "A,B,…",
        help: "the classes to choose from, with commas between them; for a model that compares images and texts",
      },
      {
        name: "template",
        kind: "texts",
        value: "TEXT",
        help: 'makes a text of a label, which stands where {} is ("a photo of a {}"); can be repeated: the mean counts',
      },
      { name: "top", kind: "number", value: "N", help: "the likeliest classes that are shown", default: SHOWN_CLASSES },
      threads,
    ],
  },
  embed: {
    summary: "unit vectors of texts and images, to search and compare with (CLIP)",
    argument: imageFiles,
    flags: [
      base,
      adapter("an adapter to attach"),
      anyBase,
      textInput,
      imageInput,
      {
        name: "output",
        kind: "text",
        value: "FILE",
        help: "a .safetensors file for the vectors (JSON lines on standard output)",
      },
      threads,
    ],
  },
  merge: {
    summary: "write the base with an adapter merged into its weights",
    flags: [
      base,
      { ...adapter("the adapter"), required: true },
      anyBase,
      { name: "output", kind: "text", value: "FOLDER", help: "a new or an empty folder", required: true },
      { name: "maxShardBytes", kind: "number", value: "BYTES", help: "largest weight file", default: 5_000_000_000 },
    ],
  },
  inspect: {
    summary: "what an adapter or a base model is: parameters, modules, ranks, norms",
    argument: {
      name: "folder",
      help: "an adapter or a base model: its folder, embedded, or owner/name[@revision] on the hub",
      model: true,
    },
    flags: [{ ...base, required: false, help: "check the adapter against this base" }, anyBase],
  },
  report: {
    summary: "write a page with the curves, samples and settings of a run, or of several beside each other",
    argument: { name: "folders", help: "the output folders of training", many: true },
    flags: [
      {
        name: "output",
        kind: "text",
        value: "FILE",
        help: "the page (report.html in the folder of the run; in the current folder for several)",
      },
    ],
  },
  init: {
    summary: "write a config file for train, from a base, data and a goal; asks for what is not given",
    flags: [
      { ...base, required: false, model: false },
      { name: "data", kind: "text", value: "FILE", help: "the training records" },
      {
        name: "goal",
        kind: "text",
        value: "GOAL",
        choices: Object.keys(goals),
        help: "what the model shall learn: sets rank, learning rate and epochs",
      },
      { name: "output", kind: "text", value: "FOLDER", help: "gets the adapter (my-adapter)" },
      { name: "evalData", kind: "text", value: "FILE", help: "records to evaluate on (a share of the data)" },
      ...dataFlags.filter(({ name }) => ["promptColumn", "completionColumn", "textColumn"].includes(name)),
      { name: "file", kind: "text", value: "FILE", help: "the config file to write", default: "lowrank.yaml" },
      { name: "force", kind: "boolean", help: "replace the file if it exists" },
      { name: "offline", kind: "boolean", help: "ask the hub nothing" },
    ],
  },
  download: {
    summary: "get a model from the hub, or the newest commit of its branch",
    argument: { name: "name", help: "owner/name[@revision] of a model or an adapter on the hub" },
    flags: [],
  },
  runs: {
    summary: "the runs below some folders: what they train, how far they are, how they ended",
    argument: {
      name: "folder",
      help: "folders of runs, or above them (the current folder); two or more runs are compared",
      many: true,
      optional: true,
    },
    flags: [{ name: "compare", kind: "boolean", help: "the runs side by side: results, and the options in which they differ" }],
  },
} satisfies Record<string, CommandTable>;

export type CommandName = keyof typeof tables;
export const commands: Record<CommandName, CommandTable> = tables;

/** `learningRate` → `--learning-rate`. */
export const flagOf = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** A flag's default as help shows it, where it has one. */
export function defaultOf(command: CommandName, flag: Flag): string | undefined {
  const value =
    flag.default ??
    (command === "train" || command === "plan" ? finetuneDefaults[flag.name as keyof typeof finetuneDefaults] : undefined) ??
    (flag.choices?.includes("completion") ? "completion" : undefined);
  if (value === undefined || value === null || value === false || JSON.stringify(value) === "{}") return undefined;
  return String(value);
}
