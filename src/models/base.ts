// A base model's folder, opened: config, modules, where the weights lie, and the tokenizer if it is asked for.

import type { Files } from "../files.ts";
import { type Checkpoint, openCheckpoint, readConfig } from "../formats/checkpoint.ts";
import type { TimeLimit } from "../text/limit.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { baseFingerprint } from "./fingerprint.ts";
import { headBeside, unnamedLabel } from "./heads/index.ts";
import type { ModuleInfo } from "./module.ts";
import {
  allModulesOf,
  asDecoder,
  type DecoderModel,
  forwardGraph,
  type HeadChoice,
  headModule,
  headNames,
  type LayerRanges,
  type ModelConfig,
  modelConfig,
  olderNames,
  storedIn,
  storedNamesOf,
  withHead,
  withLayers,
  withStoredHead,
} from "./registry.ts";
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
  /** Where the checkpoint lies. */
  files: Files;
  checkpoint: Checkpoint;
  /** The embedding and the linear layers, in the order of the forward pass; behind them the others, such as norms. */
  modules: ModuleInfo[];
  /** Identifies this base (fingerprint.ts), read at the first call. */
  fingerprint(): Promise<string>;
}

/** A language model. */
export type Base = AnyBase & { config: DecoderModel };

/**
 * Opens a checkpoint folder of any model. No weight is read. `timeLimit` is the tokenizer's: without it an expression of
 * tokenizer.json can take for ever. Fails with the errors of `openCheckpoint` and `modelConfig`.
 */
export async function openBase(files: Files, folder: string, timeLimit?: TimeLimit): Promise<AnyBase> {
  const opened = await openCheckpoint(files, folder);
  const described = modelConfig(opened.config, `${folder}/config.json`);
  const config = withStoredHead(await withHeadBeside(files, folder, described), opened.tensors);
  const tokenizer = tokenizerOf(files, folder, config, timeLimit);
  const fingerprint = once(() => baseFingerprint(files, opened, config));
  return { files, config, tokenizer, fingerprint, ...ofGraph(config, opened) };
}

/** What a base has of its graph: its modules, and where their weights are stored. */
function ofGraph(config: ModelConfig, checkpoint: Checkpoint): Pick<AnyBase, "checkpoint" | "modules"> {
  const { tensors } = checkpoint;
  const graph = forwardGraph(config);
  return {
    checkpoint: {
      ...checkpoint,
      aliases: storedNamesOf(config, graph, tensors),
      parts: storedParts(graph, tensors, (name) => storedIn(config, name)),
    },
    modules: allModulesOf(graph, (name) => olderNames(config, name)),
  };
}

/** `config` with what files in the folder of a base say of its head, beside config.json. */
export async function withHeadBeside(files: Files, folder: string, config: ModelConfig): Promise<ModelConfig> {
  const choice = await headBeside(files, folder, headNames(config));
  return choice ? withHead(config, choice, new Map()) : config;
}

/** The same base, opened or its texts alone, under another head or with other labels. Fails as `withHead` does. */
export function onBase<B extends AnyBase | TextBase>(base: B, choice: HeadChoice): B {
  if (!("modules" in base)) return { ...base, config: withHead(base.config, choice, new Map()) };
  const isSame = ([key, value]: [string, unknown]) =>
    JSON.stringify(value) === JSON.stringify(base.config[key as keyof HeadChoice]);
  // A graph of many layers takes its time, and commands choose a head several times.
  if (Object.entries(choice).every(isSame)) return base;
  const config = withHead(base.config, choice, base.checkpoint.tensors);
  return { ...base, config, ...ofGraph(config, base.checkpoint) };
}

/** The same base with layers that are used again, or without (`withLayers`). */
export function withLayersOf<B extends AnyBase>(base: B, ranges: LayerRanges | null): B {
  const config = withLayers(base.config, ranges);
  if (JSON.stringify(config) === JSON.stringify(base.config)) return base;
  return { ...base, config, ...ofGraph(config, base.checkpoint) };
}

/** A classifier with these classes: its own head if they are its own, a new one if not. Other models stay as they are. */
export const relabelled = (base: AnyBase, labels: readonly string[]): AnyBase =>
  headModule(base.config) === null ? base : onBase(base, { labels });

/** What an adapter says of its head. */
interface AdapterHead {
  labels?: readonly string[];
  head?: HeadChoice;
  saved?: ReadonlyMap<string, { shape: readonly number[] }>;
}

/**
 * The base with what an adapter says of its head, or the classes of one that brings a classifier's; an adapter of PEFT's does not name
 * them.
 */
export function forAdapter(base: AnyBase, { labels, saved, head: choice }: AdapterHead): AnyBase {
  const head = headModule(base.config);
  if (head === null) return choice?.head === base.config.head ? onBase(base, choice) : base;
  if (labels) return relabelled(base, labels);
  const count = saved?.get(`${head}.weight`)?.shape[0] ?? base.config.labels.length;
  const unnamed = Array.from({ length: count }, (_, i) => unnamedLabel(i));
  return count === base.config.labels.length ? base : relabelled(base, unnamed);
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
  const described = modelConfig(await readConfig(files, folder), `${folder}/config.json`);
  const config = await withHeadBeside(files, folder, described);
  return { checkpoint: { folder }, config, tokenizer: tokenizerOf(files, folder, config, timeLimit) };
}

function tokenizerOf(files: Files, folder: string, config: ModelConfig, timeLimit?: TimeLimit): () => Promise<Tokenizer> {
  return once(async () => {
    const tokenizer = await loadTokenizer(files, folder, timeLimit);
    const { eosIds: own = [] } = config as Partial<DecoderModel>;
    return { ...tokenizer, eosIds: [...new Set([...tokenizer.eosIds, ...own])] };
  });
}

/** `make`, called at the first call alone. */
export function once<Result extends object>(make: () => Result): () => Result {
  let made: Result | undefined;
  return () => {
    made ??= make();
    return made;
  };
}
