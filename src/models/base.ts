// A base model's folder, opened: config, modules, where the weights lie, and the tokenizer if it is asked for.

import type { Files } from "../files.ts";
import { type Checkpoint, openCheckpoint, readConfig } from "../formats/checkpoint.ts";
import type { TimeLimit } from "../text/limit.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { DecoderConfig } from "./config/config.ts";
import { baseFingerprint } from "./fingerprint.ts";
import type { ModuleInfo } from "./module.ts";
import {
  asDecoder,
  forwardGraph,
  type ModelConfig,
  modelConfig,
  modulesOf,
  olderNames,
  storedIn,
  storedNames,
} from "./registry.ts";
import { unnamedLabel, withLabels, withStoredHead } from "./task.ts";
import { storedParts } from "./weights.ts";

/** What of a base is needed to make examples: no file of weights has to be there. */
export interface TextBase {
  checkpoint: Pick<Checkpoint, "folder">;
  config: ModelConfig;
  /**
   * The folder's tokenizer, read at the first call: a checkpoint without one can still be inspected and merged. Its
   * `eosIds` hold those of config.json too.
   */
  tokenizer(): Promise<Tokenizer>;
}

/** A base of any task. */
export interface AnyBase extends TextBase {
  checkpoint: Checkpoint;
  /** The embedding and the linear layers, in the order of the forward pass. */
  modules: ModuleInfo[];
  /** Tells this base from others (fingerprint.ts), read at the first call. */
  fingerprint(): Promise<string>;
}

/** A language model. */
export type Base = AnyBase & { config: DecoderConfig };

/**
 * Opens a checkpoint folder of any task. No weight is read. `timeLimit` is the tokenizer's: without it an expression of
 * tokenizer.json can take for ever. Fails with the errors of `openCheckpoint` and `modelConfig`.
 */
export async function openBase(files: Files, folder: string, timeLimit?: TimeLimit): Promise<AnyBase> {
  const opened = await openCheckpoint(files, folder);
  const described = modelConfig(opened.config, `${folder}/config.json`);
  const config = "task" in described ? withStoredHead(described, opened.tensors) : described;
  const graph = forwardGraph(config);
  const checkpoint = {
    ...opened,
    aliases: storedNames(graph, opened.tensors, (name) => olderNames(config, name)),
    parts: storedParts(graph, opened.tensors, (name) => storedIn(config, name)),
  };
  let naming: Promise<string> | undefined;
  return {
    checkpoint,
    config,
    modules: modulesOf(graph, (name) => olderNames(config, name)),
    tokenizer: tokenizerOf(files, folder, config, timeLimit),
    fingerprint: () => {
      naming ??= baseFingerprint(files, checkpoint, config);
      return naming;
    },
  };
}

/** A classifier with these classes: its own head if they are its own, a new one if not. Other models stay as they are. */
export function relabelled(base: AnyBase, labels: readonly string[]): AnyBase {
  if (!("task" in base.config)) return base;
  const config = withLabels(base.config, labels);
  return { ...base, config, modules: modulesOf(forwardGraph(config), (name) => olderNames(config, name)) };
}

/** What of an adapter tells its classes. */
interface AdapterHead {
  labels?: readonly string[];
  saved?: ReadonlyMap<string, { shape: readonly number[] }>;
}

/** The base with the classes of an adapter that brings a classifier's head; an adapter of PEFT's does not name them. */
export function forAdapter(base: AnyBase, { labels, saved }: AdapterHead): AnyBase {
  if (!("task" in base.config)) return base;
  if (labels) return relabelled(base, labels);
  const head = base.modules.find(({ isClassifierHead }) => isClassifierHead);
  const count = saved?.get(`${head?.path}.weight`)?.shape[0] ?? base.config.labels.length;
  return count === base.config.labels.length
    ? base
    : relabelled(
        base,
        Array.from({ length: count }, (_, i) => unnamedLabel(i)),
      );
}

/** Opens a language model's checkpoint folder, as `openBase` does; a model of another task is refused. */
export async function loadBase(files: Files, folder: string, timeLimit?: TimeLimit): Promise<Base> {
  return languageModel(await openBase(files, folder, timeLimit));
}

/** `base` as a language model; one for another task is refused. */
export const languageModel = (base: AnyBase): Base => ({
  ...base,
  config: asDecoder(base.config, `${base.checkpoint.folder}/config.json`),
});

/** Opens a folder that may lack the weights: config.json and the tokenizer's files are read. */
export async function loadTextBase(files: Files, folder: string, timeLimit?: TimeLimit): Promise<TextBase> {
  const config = modelConfig(await readConfig(files, folder), `${folder}/config.json`);
  return { checkpoint: { folder }, config, tokenizer: tokenizerOf(files, folder, config, timeLimit) };
}

function tokenizerOf(files: Files, folder: string, config: ModelConfig, timeLimit?: TimeLimit): () => Promise<Tokenizer> {
  let loading: Promise<Tokenizer> | undefined;
  const load = async (): Promise<Tokenizer> => {
    const tokenizer = await loadTokenizer(files, folder, timeLimit);
    const own = "eosIds" in config ? config.eosIds : [];
    return { ...tokenizer, eosIds: [...new Set([...tokenizer.eosIds, ...own])] };
  };
  return () => {
    loading ??= load();
    return loading;
  };
}
