// The public API on a platform. What this file reaches runs in any JavaScript engine: it uses neither Node nor a browser.

import type { Extracted } from "./adapters/extract.ts";
import { type Adapter, openAdapter, readAdapter, writeAdapter } from "./adapters/peft-files.ts";
import { type Certificate, type CertifyOptions, certify } from "./commands/certify/certify.ts";
import { type CombineAdaptersOptions, combineAdapters } from "./commands/combine/combine.ts";
import { type Converted, type ConvertOptions, convert } from "./commands/convert/convert.ts";
import { type DemoEvent, type DemoOptions, demo } from "./commands/demo/demo.ts";
import { type AnswerEvent, type AnswerOptions, answers } from "./commands/eval/answers.ts";
import { type EvaluatedTask, type EvaluateOptions, type EvaluationOf, evaluate } from "./commands/eval/evaluate.ts";
import { type ExtractAdapterOptions, extractIntoFolder } from "./commands/extract/extract.ts";
import {
  type AdapterInspection,
  type BaseInspection,
  type InspectAdapterOptions,
  inspectAdapter,
  inspectBase,
} from "./commands/inspect/inspect.ts";
import { type MergeAdapterOptions, mergeAdapter } from "./commands/merge/merge.ts";
import { type Plan, type PlanOptions, planTraining } from "./commands/plan/plan.ts";
import { type Preview, type PreviewOptions, preview } from "./commands/preview/preview.ts";
import { type ResizeAdapterOptions, type ResizedAdapter, resizeAdapter } from "./commands/resize/resize.ts";
import { type SweepEvent, sweep } from "./commands/sweep/sweep.ts";
import { type FinetuneEvent, finetune } from "./commands/train/finetune.ts";
import { type UnmergeAdapterOptions, unmergeAdapter } from "./commands/unmerge/unmerge.ts";
import { type VerifyEvent, verifyFolder } from "./commands/verify/verify.ts";
import { LowrankError } from "./errors.ts";
import { summing } from "./formats/checksums.ts";
import { isGguf } from "./formats/gguf/checkpoint.ts";
import { readJsonObject } from "./formats/json.ts";
import { type Generator, openGenerator } from "./generate/generator.ts";
import type { BaseDtype } from "./graph/pack.ts";
import { type RgbImage, readImage } from "./images/image.ts";
import { type ImageProcessor, loadImageProcessor } from "./images/processor.ts";
import { type Base, loadBase, openBase } from "./models/base.ts";
import { initModel } from "./models/init.ts";
import { onDevice } from "./platform/devices.ts";
import { EMBEDDED, type HubOptions, type ModelFolder, type Platform } from "./platform/platform.ts";
import { openClassifier } from "./predict/classifier.ts";
import { openEmbedder } from "./predict/embedder.ts";
import type { Classifier, Embedder, EmbedOptions } from "./predict/types.ts";
import { type ReportOptions, writeReport } from "./report/report.ts";
import type { DeviceChoice } from "./runtime/devices.ts";
import type { SweepGiven } from "./sweep/options.ts";
import type { TaskName, UsualTask } from "./tasks/index.ts";
import type { FinetuneOptions } from "./train/options.ts";

export { LowrankError } from "./errors.ts";
export { generateText } from "./generate/generator.ts";
export type { Platform } from "./platform/platform.ts";

/** How a model is opened for generation or prediction. */
export interface OpenOptions {
  /** An adapter, its folder, or its name on the hub; none if absent. */
  adapter?: string | Adapter | null;
  /** Accept an adapter that was made for another base of the same shape. */
  anyBase?: boolean;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
  /** What computes; the processor if absent. */
  device?: DeviceChoice;
}

/** How a model is opened for generation. */
export interface GenerationOptions extends OpenOptions {
  /** What the base's weights are kept in. Default: float32. */
  baseDtype?: BaseDtype;
  /** Keep the cache of a prompt that is generated alone: what the next one begins with is not computed again. */
  reusePrefix?: boolean;
}

/** How a model is opened for prediction. */
export interface PredictOptions extends OpenOptions {
  /** What the base is used for; the adapter, or its config.json, says so if absent. */
  task?: TaskName;
}

/**
 * The public API with `platform` behind it. Wherever a function takes the name of a model, that is its folder, a GGUF file, `embedded`,
 * or `owner/name[@revision]` on the hub.
 */
export function createLowrank(platform: Platform) {
  const { files, timeLimit, decodeImage, adapterLimits } = platform;

  const resolve = async (reference: string, options?: HubOptions): Promise<ModelFolder> =>
    platform.resolveModel?.(reference, options) ?? { folder: reference, name: reference };
  const folderOf = async (reference: string): Promise<string> => (await resolve(reference)).folder;

  /** The folder of a model that is on this machine. */
  async function localFolder(model: string): Promise<string> {
    try {
      return (await resolve(model, { offline: true })).folder;
    } catch (error) {
      if (!(error instanceof LowrankError && error.code.startsWith("hub/"))) throw error;
      throw new LowrankError("plan/not-here", "the model is not on this machine, and a plan downloads nothing", {
        subject: model,
        expected: "a config.json, a checkpoint folder, embedded, or a model in the hub's cache",
        next: `Give its config.json, or paste it: lowrank plan - (it is at https://huggingface.co/${model.replace(/@.*/, "")}/blob/main/config.json).`,
      });
    }
  }

  /** `options` with folders in place of the names of models. */
  async function withFolders<T extends { base?: string | undefined; adapter?: string; ranksFrom?: string }>(options: T) {
    const folders: Partial<Record<"base" | "adapter" | "ranksFrom", string>> = {};
    for (const name of ["base", "adapter", "ranksFrom"] as const) {
      const given = options[name];
      if (given !== undefined) folders[name] = await folderOf(given);
    }
    return { ...options, ...folders } as T;
  }

  /** What a run calls its base: its name, where that is not its folder. */
  async function nameOf({ base, baseName }: { base?: string; baseName?: string }): Promise<string | undefined> {
    const named = base === undefined || baseName !== undefined ? null : await resolve(base);
    return named && named.name !== named.folder ? named.name : baseName;
  }

  const loadAdapter = async (adapter: string): Promise<Adapter> => readAdapter(files, await folderOf(adapter), adapterLimits);
  const attached = async (adapter: OpenOptions["adapter"] = null) =>
    typeof adapter === "string" ? openAdapter(files, await folderOf(adapter), adapterLimits) : adapter;

  const load = async (base: string): Promise<Base> => loadBase(files, await folderOf(base), timeLimit);

  const predicting = async (base: string, { adapter, device, ...options }: PredictOptions & EmbedOptions) => {
    const { openSession } = await onDevice(platform, device);
    const opened = await openBase(files, await folderOf(base), timeLimit);
    return [opened, { ...options, adapter: await attached(adapter), files, openSession, decodeImage }] as const;
  };

  return {
    /**
     * Downloads a model or an adapter, `owner/name[@revision]`, from the hub, or updates it to what its revision is now; files that
     * the cache has are not downloaded again. Resolves to its folder.
     */
    downloadModel: async (name: string, options?: HubOptions): Promise<string> =>
      (await resolve(name, { refresh: true, ...options })).folder,

    /**
     * Trains as `options` say and reports as it goes. Options, base, adapter, output folder and data are checked before the
     * engine loads the base. The output folder gets run.json, metrics.jsonl, checkpoint-<step>/ folders, and at the end the adapter
     * (`adapter_config.json`, `adapter_model.safetensors`) or, for the method "full", a whole checkpoint.
     */
    async *finetune(options: FinetuneOptions): AsyncGenerator<FinetuneEvent, void, void> {
      yield* finetune({ ...(await withFolders(options)), baseName: await nameOf(options) }, platform);
    },

    /**
     * Chooses learning rate, rank, alpha, targets and method by successive halving on the evaluation loss, in the minutes that it is
     * given, and reports as it goes; with `grid` trains every combination. The output folder gets sweep.json and a run's folder for each
     * trial. A sweep that was stopped or killed resumes (`resume`) to the result that it would have had.
     */
    async *sweep(options: SweepGiven): AsyncGenerator<SweepEvent, void, void> {
      yield* sweep({ ...(await withFolders(options)), baseName: await nameOf(options) }, platform);
    },

    /** Opens a base model: a checkpoint folder in Hugging Face's layout, a GGUF file, or a name. No weight is read. */
    loadBase: load,

    /**
     * Writes a model with random weights, to train from nothing (`method: "full"`): `config`, the content of a config.json of any
     * supported model type, and model.safetensors. The values depend on `seed` alone. The tokenizer's files are yours to add. Throws
     * `model/exists` if the folder has weights.
     */
    initModel: (config: Readonly<Record<string, unknown>>, folder: string, options?: { seed?: number }): Promise<void> =>
      initModel(files, config, folder, options),

    /** Reads a PNG, JPEG or WebP file as RGB, turned upright by its EXIF data. */
    readImage: async (path: string): Promise<RgbImage> => readImage(files, provided(decodeImage, "decodeImage"), path),

    /** How a model prepares its images, by its preprocessor_config.json: from `readImage` to the model's input. */
    imageProcessor: async (base: string): Promise<ImageProcessor> => loadImageProcessor(files, await folderOf(base)),

    /** Reads an adapter, as PEFT or this project writes it: its folder, or its name on the hub. */
    loadAdapter,

    /** Writes an adapter folder that PEFT loads unchanged, with checksums in SHA256SUMS. */
    async saveAdapter(folder: string, adapter: Adapter): Promise<void> {
      const { files: to, writeSums } = summing(files, platform.digest);
      await writeAdapter(to, folder, adapter);
      await writeSums(folder);
    },

    /** Opens a base (its name, or what `loadBase` returned) for generation. */
    async openGenerator(base: string | Base, { adapter, device, ...options }: GenerationOptions = {}): Promise<Generator> {
      const { openSession } = await onDevice(platform, device);
      const opened = typeof base === "string" ? await load(base) : base;
      return openGenerator(opened, { ...options, adapter: await attached(adapter), openSession, reading: platform });
    },

    /**
     * Opens a classifier: of texts (BERT), of images (ViT), or of images by labels that each call brings (CLIP). Fails with
     * `predict/task` for a language model, and with `predict/no-head` where neither the model nor the adapter has a classifier.
     */
    openClassifier: async (base: string, options: PredictOptions = {}): Promise<Classifier> =>
      openClassifier(...(await predicting(base, options))),

    /**
     * Opens a model for unit vectors: of texts (BERT, language models), or of texts and images (CLIP). Others fail with `predict/task`.
     */
    openEmbedder: async (base: string, options: PredictOptions & EmbedOptions = {}): Promise<Embedder> =>
      openEmbedder(...(await predicting(base, options))),

    /**
     * Evaluates a base on a data file, alone and with an adapter, by the measures of its task. The result's type is that of `task`;
     * without it, that of a language model.
     */
    evaluate: async <T extends EvaluatedTask = UsualTask>(options: EvaluateOptions<T>) =>
      (await evaluate(await withFolders(options), platform)) as EvaluationOf<T>,

    /** What a run would train on: tokenized examples, lengths, classes, what is lost, duplicates. No weight is read. */
    preview: async (options: PreviewOptions): Promise<Preview> =>
      preview({ ...options, base: await folderOf(options.base) }, platform),

    /** Continues the prompts of a data file with a base, alone and with an adapter, and counts the answers equal to the file's own. */
    async *answers(options: AnswerOptions): AsyncGenerator<AnswerEvent, void, void> {
      yield* answers(await withFolders(options), platform);
    },

    /** Trains an adapter for the embedded model on the task that comes with it; held-out answers before and after. */
    async *demo(options: Omit<DemoOptions, "base" | "baseName" | "data">): AsyncGenerator<DemoEvent, void, void> {
      const data = provided(platform.demoData, "demoData");
      yield* demo({ ...options, base: await folderOf(EMBEDDED), baseName: EMBEDDED, data }, platform);
    },

    /**
     * Writes the base with the adapter merged into its weights: a checkpoint that needs no adapter. Resolves to the certificate that lies
     * beside it: whether weights and outputs are those of the base with the adapter.
     */
    mergeAdapter: async (options: MergeAdapterOptions): Promise<Certificate | null> =>
      mergeAdapter(files, await withFolders(options), platform),

    /** Writes the base of a merged model: what merging added is subtracted again, up to rounding. */
    unmergeAdapter: async (options: UnmergeAdapterOptions): Promise<void> =>
      unmergeAdapter(files, { ...(await withFolders(options)), merged: await folderOf(options.merged) }, platform),

    /** Compares a merged model, whoever merged it, with its base and adapter. */
    certify: async (options: CertifyOptions): Promise<Certificate> =>
      certify({ ...(await withFolders(options)), merged: await folderOf(options.merged) }, platform),

    /**
     * Combines adapters of one base, as PEFT's `add_weighted_adapter` does, into the folder of one. Resolves to the result, which is
     * written.
     */
    combineAdapters: async (options: CombineAdaptersOptions): Promise<Adapter> => {
      const adapters = await Promise.all(options.adapters.map(folderOf));
      return combineAdapters(files, { ...(await withFolders(options)), adapters }, platform);
    },

    /** Writes an adapter or a model in the format of another program: GGUF, MLX and others (docs/formats.md). */
    convert: async (options: ConvertOptions): Promise<Converted> => {
      const base = options.base === undefined ? undefined : await folderOf(options.base);
      return convert(files, { ...options, ...(base !== undefined && { base }) }, platform);
    },

    /** Writes an adapter that makes of a base what a tuned model is, as far as its rank goes. */
    extractAdapter: async (options: ExtractAdapterOptions): Promise<Extracted> =>
      extractIntoFolder(files, { ...(await withFolders(options)), tuned: await folderOf(options.tuned) }, platform),

    /** Truncates an adapter's updates to a rank, or each to the rank that keeps a share of its energy, and writes the result. */
    resizeAdapter: async (options: ResizeAdapterOptions): Promise<ResizedAdapter> =>
      resizeAdapter(files, await withFolders(options), platform),

    /** An adapter's configuration, parameters, ranks and norms. With `base` it is checked against that base. */
    inspectAdapter: async (adapter: string, options: InspectAdapterOptions = {}): Promise<AdapterInspection> =>
      inspectAdapter(files, await folderOf(adapter), await withFolders(options), adapterLimits),

    /** A base model's configuration, parameters and modules. Needs its config.json only. */
    inspectBase: async (base: string): Promise<BaseInspection> => inspectBase(files, await folderOf(base)),

    /**
     * Checks the files of an adapter, a checkpoint, a run's output folder, a model or the hub's cache, given by its folder or, of what is
     * on this machine, its name: their checksums, their names in the hub's cache, or else their structure.
     */
    async *verify(folder: string): AsyncGenerator<VerifyEvent, void, void> {
      const digest = provided(platform.digest, "digest");
      const place = (await files.exists(folder)) ? folder : (await resolve(folder, { offline: true })).folder;
      yield* verifyFolder(place, { files, digest });
    },

    /** Writes a self-contained HTML page about a run, or about several beside each other; resolves to its path. */
    async reportRuns(options: ReportOptions): Promise<string> {
      const library = await provided(platform.chartLibrary, "chartLibrary")();
      return writeReport(files, options, library, `Made by lowrank ${platform.version} at ${new Date().toISOString()}.`);
    },

    /**
     * Estimates what training a model takes: modules, parameters, sizes of files, memory, time. `model` is a config.json (its path,
     * or its content), or the name of a model on this machine. No weight is read, and nothing is downloaded.
     */
    async plan(model: string | Record<string, unknown>, options: PlanOptions = {}): Promise<Plan> {
      if (typeof model !== "string") return planTraining(model, options, platform);
      const isOther = !isGguf(model) && (await files.exists(model)) && !(await files.isFolder(model));
      const isFile = model.endsWith(".json") || isOther;
      const file = isFile ? model : `${await localFolder(model)}/config.json`;
      return planTraining(await readJsonObject(files, file), options, platform, file);
    },
  };
}

export type Lowrank = ReturnType<typeof createLowrank>;

/** A part of the platform that not every host has. */
function provided<T>(part: T | undefined, name: keyof Platform): T {
  if (part !== undefined) return part;
  throw new LowrankError("platform/missing", "the platform does not provide what this function needs", {
    subject: name,
    next: "Give it to createLowrank with the rest of the platform.",
  });
}
