// The functions of the public API with Node's file system and ONNX Runtime for Node behind them.

import type { Generator } from "./generate/generator.ts";
import { openGenerator as openGeneratorOn } from "./generate/generator.ts";
import { type EvaluateOptions, evaluate as evaluateOn } from "./jobs/evaluate.ts";
import { type InspectAdapterOptions, inspectAdapter as inspectAdapterIn, inspectBase as inspectBaseIn } from "./jobs/inspect.ts";
import { type MergeAdapterOptions, mergeAdapter as mergeAdapterIn } from "./jobs/merge.ts";
import { type Adapter, readAdapter, writeAdapter } from "./lora/adapter.ts";
import { type Base, loadBase as loadBaseIn } from "./models/base.ts";
import { openNodeSession } from "./runtime/node.ts";
import { nodeFiles } from "./runtime/node-files.ts";
import { freeDisk, memoryLimits } from "./runtime/node-limits.ts";
import type { Runtime } from "./runtime/runtime.ts";
import { timeLimit } from "./runtime/time-limit.ts";
import { type FinetuneEvent, finetune as finetuneOn } from "./train/finetune.ts";
import type { FinetuneOptions } from "./train/options.ts";

export const runtime: Runtime = {
  files: nodeFiles,
  openSession: openNodeSession,
  timeLimit,
  memoryBytes: () => process.memoryUsage.rss(),
  memoryLimits,
  freeDisk,
};

/**
 * Trains as `options` say and reports as it goes. Options, base, adapter, output folder and data are checked before the
 * engine loads the base. The output folder gets run.json, checkpoint-<step>/ folders, and at the end the adapter
 * (`adapter_config.json`, `adapter_model.safetensors`) or, for the method "full", a whole checkpoint.
 */
export const finetune = (options: FinetuneOptions): AsyncGenerator<FinetuneEvent, void, void> => finetuneOn(options, runtime);

/** Opens a checkpoint folder in Hugging Face's layout. No weight is read. */
export const loadBase = (folder: string): Promise<Base> => loadBaseIn(nodeFiles, folder, timeLimit);

/** Reads an adapter folder, as PEFT or this project writes it. */
export const loadAdapter = (folder: string): Promise<Adapter> => readAdapter(nodeFiles, folder);

/** Writes an adapter folder that PEFT loads unchanged. */
export const saveAdapter = (folder: string, adapter: Adapter): Promise<void> => writeAdapter(nodeFiles, folder, adapter);

/**
 * Opens a base (its folder, or what `loadBase` gave) for generation, with an adapter (its folder, or itself) or none.
 * With `anyBase`, adapters that were made for another base of the same shape are taken too.
 */
export async function openGenerator(
  base: string | Base,
  { adapter = null, ...options }: { adapter?: string | Adapter | null; anyBase?: boolean; threads?: number } = {},
): Promise<Generator> {
  const loaded = typeof base === "string" ? await loadBase(base) : base;
  const attached = typeof adapter === "string" ? await loadAdapter(adapter) : adapter;
  return openGeneratorOn(loaded, { ...options, adapter: attached, openSession: openNodeSession });
}

/** Evaluates a base on a data file, alone and with an adapter. */
export const evaluate = (options: EvaluateOptions) => evaluateOn(options, runtime);

/** Writes the base with the adapter merged into its weights: a checkpoint that needs no adapter. */
export const mergeAdapter = (options: MergeAdapterOptions): Promise<void> => mergeAdapterIn(nodeFiles, options);

/** What an adapter is: configuration, parameters, ranks, norms. With `base` it is checked against that base. */
export const inspectAdapter = (folder: string, options?: InspectAdapterOptions) => inspectAdapterIn(nodeFiles, folder, options);

/** What a base model is: configuration, parameters, modules. Needs its config.json only. */
export const inspectBase = (folder: string) => inspectBaseIn(nodeFiles, folder);
