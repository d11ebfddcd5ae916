// Mistral (Jiang et al. 2023): Llama's layer; all layers see a sliding window, which is in the mask.

import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { llamaForward } from "./llama.ts";

export const mistral: Family<LlamaConfig> = {
  isPart: true,
  config: (json, file) =>
    llamaConfig(json, file, "mistral", {
      vocabSize: 32000,
      intermediateSize: 14336,
      kvHeads: 8,
      headDim: null,
      maxPositions: 131072,
      bosId: 1,
      eosId: 2,
      attentionBias: "none",
      mlpBias: "none",
      window: "every",
    }),
  forward: (c, inputs) => llamaForward(c, inputs),
};
