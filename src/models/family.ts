// What a model family is: how its config.json reads and how it computes. families.ts lists them.

import type { DecoderConfig } from "./config/config.ts";
import type { Vision } from "./images.ts";
import type { DecoderInputs, DecoderOutputs } from "./layers/blocks.ts";

/** A family of decoders. `C` is what its config tells beyond what all do. */
export interface Family<C extends DecoderConfig = DecoderConfig> {
  /** The parsed JSON of a config.json, checked; `file` is what errors call it. */
  config(json: unknown, file: string): C;
  forward(config: C, inputs: DecoderInputs): DecoderOutputs;
  /** Of a family that reads images. */
  vision?: Vision<C>;
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
