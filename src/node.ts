// The functions of the public API with Node's file system and ONNX Runtime for Node behind them.

import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { type Adapter, readAdapter, writeAdapter } from "./adapters/peft-files.ts";
import { type DemoEvent, type DemoOptions, demo as demoOn } from "./commands/demo/demo.ts";
import { type AnswerEvent, type AnswerOptions, answers as answersOn } from "./commands/eval/answers.ts";
import { type EvaluatedTask, type EvaluateOptions, type EvaluationOf, evaluate as evaluateOn } from "./commands/eval/evaluate.ts";
import {
  type InspectAdapterOptions,
  inspectAdapter as inspectAdapterIn,
  inspectBase as inspectBaseIn,
} from "./commands/inspect/inspect.ts";
import { type MergeAdapterOptions, mergeAdapter as mergeAdapterIn } from "./commands/merge/merge.ts";
import { type Plan, type PlanOptions, planTraining } from "./commands/plan/plan.ts";
import { type Preview, type PreviewOptions, preview as previewOf } from "./commands/preview/preview.ts";
import { type FinetuneEvent, finetune as finetuneOn } from "./commands/train/finetune.ts";
import { LowrankError } from "./errors.ts";
import { readJsonObject } from "./formats/json.ts";
import type { Generator } from "./generate/generator.ts";
import { openGenerator as openGeneratorOn } from "./generate/generator.ts";
import type { HubOptions } from "./hub/hub.ts";
import { EMBEDDED, resolveModel } from "./hub/reference.ts";
import { type RgbImage, readImage as readImageWith } from "./images/image.ts";
import { type ImageProcessor, loadImageProcessor } from "./images/processor.ts";
import { type Base, loadBase as loadBaseIn, openBase } from "./models/base.ts";
import { initModel as initModelIn } from "./models/init.ts";
import { chartLibrary } from "./platform/node/chart-library.ts";
import { collect } from "./platform/node/collect.ts";
import { nodeFiles } from "./platform/node/files.ts";
import { decodeImage } from "./platform/node/images.ts";
import { freeDisk, memoryLimits } from "./platform/node/limits.ts";
import { lockFolder } from "./platform/node/lock.ts";
import { openNodeSession } from "./platform/node/session.ts";
import { timeLimit } from "./platform/node/time-limit.ts";
import { environment, version } from "./platform/node/version.ts";
import type { Runtime } from "./platform/platform.ts";
import { openClassifier as openClassifierOn } from "./predict/classifier.ts";
import { openEmbedder as openEmbedderOn } from "./predict/embedder.ts";
import type { Classifier, Embedder } from "./predict/types.ts";
import { type ReportOptions, writeReport } from "./report/report.ts";
import type { FinetuneOptions } from "./train/options.ts";

export const runtime: Runtime = {
  files: nodeFiles,
  openSession: openNodeSession,
  timeLimit,
  memoryBytes: () => process.memoryUsage.rss(),
  memoryLimits,
  freeDisk,
  temporaryFolder: tmpdir(),
  lock: lockFolder,
  collect,
  decodeImage,
  version,
  environment,
};

/**
 * Gets a model or an adapter, `owner/name[@revision]`, from the hub, or what its revision is now; what the cache has is not
 * downloaded again. Resolves to its folder, which all functions take that take a model.
 */
export const downloadModel = async (name: string, options: HubOptions = {}): Promise<string> =>
  (await resolveModel(name, { refresh: true, ...options })).folder;

/** The folder of a model: of a folder itself, of `embedded`, of `owner/name[@revision]` on the hub. */
const folderOf = async (reference: string): Promise<string> => (await resolveModel(reference)).folder;

/** The options of a job with folders in place of what names its models. */
async function withFolders<T extends { base?: string; adapter?: string }>(options: T): Promise<T> {
  const folders: { base?: string; adapter?: string } = {};
  if (options.base !== undefined) folders.base = await folderOf(options.base);
  if (options.adapter !== undefined) folders.adapter = await folderOf(options.adapter);
  return { ...options, ...folders };
}

/**
 * Trains as `options` say and reports as it goes. Options, base, adapter, output folder and data are checked before the
 * engine loads the base. The output folder gets run.json, metrics.jsonl, checkpoint-<step>/ folders, and at the end the adapter
 * (`adapter_config.json`, `adapter_model.safetensors`) or, for the method "full", a whole checkpoint.
 */
export async function* finetune(options: FinetuneOptions): AsyncGenerator<FinetuneEvent, void, void> {
  const named = options.base === undefined || options.baseName !== undefined ? null : await resolveModel(options.base);
  const baseName = named && named.name !== named.folder ? named.name : options.baseName;
  yield* finetuneOn({ ...(await withFolders(options)), baseName }, runtime);
}

/** Opens a base model: a checkpoint folder in Hugging Face's layout, `embedded`, or a name on the hub. No weight is read. */
export const loadBase = async (base: string): Promise<Base> => loadBaseIn(nodeFiles, await folderOf(base), timeLimit);

/**
 * Writes a model with random weights, to train from nothing (`method: "full"`): `config`, the content of a config.json of any
 * supported model type, and model.safetensors. The values depend on `seed` alone. The tokenizer's files are yours to add. Throws
 * `model/exists` if the folder has weights.
 */
export const initModel = (
  config: Readonly<Record<string, unknown>>,
  folder: string,
  options: { seed?: number } = {},
): Promise<void> => initModelIn(nodeFiles, config, folder, options);

/** Reads a PNG, JPEG or WebP file as RGB, turned upright as its EXIF data say. */
export const readImage = (path: string): Promise<RgbImage> => readImageWith(nodeFiles, decodeImage, path);

/** How a model prepares its images, by its preprocessor_config.json: from `readImage` to what the model takes. */
export const imageProcessor = async (base: string): Promise<ImageProcessor> =>
  loadImageProcessor(nodeFiles, await folderOf(base));

/** Reads an adapter, as PEFT or this project writes it: its folder, or its name on the hub. */
export const loadAdapter = async (adapter: string): Promise<Adapter> => readAdapter(nodeFiles, await folderOf(adapter));

/** Writes an adapter folder that PEFT loads unchanged. */
export const saveAdapter = (folder: string, adapter: Adapter): Promise<void> => writeAdapter(nodeFiles, folder, adapter);

/**
 * Opens a base (what names it, or what `loadBase` gave) for generation, with an adapter (what names it, or itself) or none.
 * With `anyBase`, adapters that were made for another base of the same shape are taken too.
 */
export async function openGenerator(base: string | Base, { adapter = null, ...options }: Attaching = {}): Promise<Generator> {
  const loaded = typeof base === "string" ? await loadBase(base) : base;
  const attached = typeof adapter === "string" ? await loadAdapter(adapter) : adapter;
  return openGeneratorOn(loaded, { ...options, adapter: attached, openSession: openNodeSession, reading: runtime });
}

/** How predictions are opened: with an adapter (what names it, or itself) or none. */
interface Attaching {
  adapter?: string | Adapter | null;
  /** Take adapters that were made for another base of the same shape. */
  anyBase?: boolean;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
}

/** What `base` names, opened, and the options of predictions with Node behind them. */
async function predicting(base: string, { adapter = null, ...options }: Attaching) {
  const opened = await openBase(nodeFiles, await folderOf(base), timeLimit);
  const attached = typeof adapter === "string" ? await loadAdapter(adapter) : adapter;
  return [opened, { ...options, adapter: attached, files: nodeFiles, openSession: openNodeSession, decodeImage }] as const;
}

/**
 * Opens a model that tells classes: of texts (BERT), of images (ViT), or of images by labels that each call brings (CLIP). `base`
 * is a checkpoint folder or a name on the hub. Fails with `predict/task` for a language model, and with `predict/no-head` where
 * neither the model nor the adapter has a classifier.
 */
export const openClassifier = async (base: string, options: Attaching = {}): Promise<Classifier> =>
  openClassifierOn(...(await predicting(base, options)));

/** Opens a model that compares images and texts (CLIP), for their unit vectors. Others fail with `predict/task`. */
export const openEmbedder = async (base: string, options: Attaching = {}): Promise<Embedder> =>
  openEmbedderOn(...(await predicting(base, options)));

/**
 * Evaluates a base on a data file, alone and with an adapter, by what its task measures. The result's type is that of `task`; without
 * it, that of a language model.
 */
export const evaluate = async <T extends EvaluatedTask = "causal-lm">(options: EvaluateOptions<T>): Promise<EvaluationOf<T>> =>
  (await evaluateOn(await withFolders(options), runtime)) as EvaluationOf<T>;

/** What a run would train on: examples, lengths, classes, what is lost, duplicates. No weight is read. */
export const preview = async (options: PreviewOptions): Promise<Preview> =>
  previewOf({ ...options, base: await folderOf(options.base) }, runtime);

/** Answers the prompts of a data file with a base, alone and with an adapter, and counts the answers that are the file's own. */
export async function* answers(options: AnswerOptions): AsyncGenerator<AnswerEvent, void, void> {
  yield* answersOn(await withFolders(options), runtime);
}

const demoData = fileURLToPath(new URL("../models/demo", import.meta.url));

/** Trains an adapter for the embedded model on the task that comes with it; held-out answers before and after. */
export async function* demo(options: Omit<DemoOptions, "base" | "baseName" | "data">): AsyncGenerator<DemoEvent, void, void> {
  yield* demoOn({ ...options, base: await folderOf(EMBEDDED), baseName: EMBEDDED, data: demoData }, runtime);
}

/** Writes the base with the adapter merged into its weights: a checkpoint that needs no adapter. */
export const mergeAdapter = async (options: MergeAdapterOptions): Promise<void> =>
  mergeAdapterIn(nodeFiles, await withFolders(options));

/** What an adapter is: configuration, parameters, ranks, norms. With `base` it is checked against that base. */
export const inspectAdapter = async (adapter: string, options: InspectAdapterOptions = {}) =>
  inspectAdapterIn(nodeFiles, await folderOf(adapter), await withFolders(options));

/** What a base model is: configuration, parameters, modules. Needs its config.json only. */
export const inspectBase = async (base: string) => inspectBaseIn(nodeFiles, await folderOf(base));

/** Writes a self-contained HTML page about a run, or about several beside each other; resolves to its path. */
export async function reportRuns(options: ReportOptions): Promise<string> {
  const made = `Made by lowrank ${version} at ${new Date().toISOString()}.`;
  return writeReport(nodeFiles, options, await chartLibrary(), made);
}

/**
 * What training a model would take: modules, parameters, sizes of files, memory, time. `model` is a config.json (its path, or
 * its content), or what names a model on this machine. No weight is read, and nothing is downloaded.
 */
export async function plan(model: string | Record<string, unknown>, options: PlanOptions = {}): Promise<Plan> {
  if (typeof model !== "string") return planTraining(model, options, runtime);
  const file = await configFile(model);
  return planTraining(await readJsonObject(nodeFiles, file), options, runtime, file);
}

const isRegular = (path: string): Promise<boolean> =>
  nodeFiles.size(path).then(
    () => true,
    () => false,
  );

async function configFile(model: string): Promise<string> {
  const isFile = model.endsWith(".json") || (await isRegular(model));
  if (isFile) return model;
  try {
    return `${(await resolveModel(model, { offline: true })).folder}/config.json`;
  } catch (error) {
    if (!(error instanceof LowrankError && error.code.startsWith("hub/"))) throw error;
    throw new LowrankError("plan/not-here", "the model is not on this machine, and a plan downloads nothing", {
      subject: model,
      expected: "a config.json, a checkpoint folder, embedded, or a model in the hub's cache",
      next: `Give its config.json, or paste it: lowrank plan - (it is at https://huggingface.co/${model.replace(/@.*/, "")}/blob/main/config.json).`,
    });
  }
}
