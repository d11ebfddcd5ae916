// What a model family is: how its config.json reads and how it computes. families.ts lists them.
import type { DecoderInputs, DecoderOutputs } from "./blocks.ts";
import type { DecoderConfig } from "./config.ts";
import type { Vision } from "./images.ts";

/** A family of decoders. `C` is what its config tells beyond what all do. */
export interface Family<C extends DecoderConfig = DecoderConfig> {
  /** The parsed JSON of a config.json, checked; `file` is what errors call it. */
  config(json: unknown, file: string): C;
  forward(config: C, inputs: DecoderInputs): DecoderOutputs;
  /** Of a family that reads images. */
  vision?: Vision<C>;
  /** What older versions call a module or weight of this name, and so a checkpoint or an adapter may: the newest first. */
  olderNames?: readonly ((name: string) => string)[];
}
