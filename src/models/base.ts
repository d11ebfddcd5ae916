// A base model's folder, opened: config, modules, where the weights lie, and the tokenizer if it is asked for.
import type { Files } from "../files.ts";
import { type Checkpoint, openCheckpoint, readConfig } from "../formats/checkpoint.ts";
import type { ModuleInfo } from "../lora/match.ts";
import type { TimeLimit } from "../text/limit.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { DecoderConfig } from "./config.ts";
import { baseFingerprint } from "./fingerprint.ts";
import {
  asDecoder,
  decoderConfig,
  forwardGraph,
  type ModelConfig,
  modelConfig,
  modulesOf,
  olderNames,
  storedNames,
} from "./registry.ts";

/** What of a base is needed to make tokens: no file of weights has to be there. */
export interface TextBase {
  checkpoint: Pick<Checkpoint, "folder">;
  config: DecoderConfig;
  /**
   * The folder's tokenizer, read at the first call: a checkpoint without one can still be inspected and merged. Its
   * `eosIds` hold those of config.json too.
   */
  tokenizer(): Promise<Tokenizer>;
}

/** A base of any task. */
export interface AnyBase {
  checkpoint: Checkpoint;
  config: ModelConfig;
  /** The embedding and the linear layers, in the order of the forward pass. */
  modules: ModuleInfo[];
  /** Tells this base from others (fingerprint.ts), read at the first call. */
  fingerprint(): Promise<string>;
}

/** A language model. */
export type Base = TextBase & AnyBase & { config: DecoderConfig };

/** Opens a checkpoint folder of any task. No weight is read. Fails with the errors of `openCheckpoint` and `modelConfig`. */
export async function openBase(files: Files, folder: string): Promise<AnyBase> {
  const opened = await openCheckpoint(files, folder);
  const config = modelConfig(opened.config, `${folder}/config.json`);
  const older = (name: string) => olderNames(config, name);
  const graph = forwardGraph(config);
  const checkpoint = { ...opened, aliases: storedNames(graph, opened.tensors, older) };
  let naming: Promise<string> | undefined;
  return {
    checkpoint,
    config,
    modules: modulesOf(graph, older),
    fingerprint: () => {
      naming ??= baseFingerprint(files, checkpoint, config);
      return naming;
    },
  };
}

/**
 * Opens a language model's checkpoint folder. No weight is read. `timeLimit` is the tokenizer's: without it an expression of
 * tokenizer.json can take for ever. Fails with the errors of `openBase` and `decoderConfig`.
 */
export async function loadBase(files: Files, folder: string, timeLimit?: TimeLimit): Promise<Base> {
  const base = await openBase(files, folder);
  const config = asDecoder(base.config, `${folder}/config.json`);
  return { ...base, config, tokenizer: tokenizerOf(files, folder, config, timeLimit) };
}

/** Opens a folder that may lack the weights: config.json and the tokenizer's files are read. */
export async function loadTextBase(files: Files, folder: string, timeLimit?: TimeLimit): Promise<TextBase> {
  const config = decoderConfig(await readConfig(files, folder), `${folder}/config.json`);
  return { checkpoint: { folder }, config, tokenizer: tokenizerOf(files, folder, config, timeLimit) };
}

function tokenizerOf(files: Files, folder: string, config: DecoderConfig, timeLimit?: TimeLimit): () => Promise<Tokenizer> {
  let loading: Promise<Tokenizer> | undefined;
  const load = async (): Promise<Tokenizer> => {
    const tokenizer = await loadTokenizer(files, folder, timeLimit);
    return { ...tokenizer, eosIds: [...new Set([...tokenizer.eosIds, ...config.eosIds])] };
  };
  return () => {
    loading ??= load();
    return loading;
  };
}
