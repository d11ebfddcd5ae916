// What a model family is: how its config.json reads and how its backbone computes. families/index.ts lists them.
import type { Value } from "../graph/graph.ts";
import type { BackboneConfig, DecoderConfig } from "./config/config.ts";
import type { Heads } from "./heads/head.ts";
import type { Vision } from "./images.ts";
import type { Backbone, DecoderInputs, ModelInputs } from "./layers/blocks.ts";

/** A family of backbones. `C` is what its config says beyond what all do, `I` what it reads. */
export interface Family<C extends BackboneConfig = BackboneConfig, I extends ModelInputs = DecoderInputs> {
  /** The parsed JSON of a config.json, checked; `file` is what errors call it. */
  config(json: unknown, file: string): C;
  /** What the backbone reads, by name; "batch" is the first axis of each. The inputs of a decoder if absent. */
  inputs?(config: C): Record<string, Value>;
  forward(config: C, inputs: I): Backbone;
  /** The heads that go on it, the usual one first; those of a decoder if absent. */
  heads?: Heads;
  /** The first word of its module paths, which a class without a head lacks (Transformers' base_model_prefix); "model" if absent. */
  prefix?: string;
  /** It can be the language model of a model of several parts: every path of it begins at its config's `root`. */
  isPart?: true;
  /** Of a family whose language model reads images. */
  vision?: Vision<C & DecoderConfig>;
  /** What other versions of Transformers call a module or weight of this name, and so a checkpoint or an adapter may: the newest first. */
  olderNames?: readonly ((name: string) => string)[];
  /** The larger tensor that a checkpoint may store the weight of this name in; undefined if it has one of its own everywhere. */
  storedIn?(name: string): StoredIn | undefined;
}

/** A place in a stored tensor [count, rows, columns]: one matrix of it, or a half of its rows. */
export interface StoredIn {
  tensor: string;
  index: number;
  half?: 0 | 1;
}
