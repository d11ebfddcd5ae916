// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama's layer with biases on q, k and v.

import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { llamaForward } from "./llama.ts";

export const qwen2: Family<LlamaConfig> = {
  isPart: true,
  config: (json, file) =>
    llamaConfig(json, file, "qwen2", {
      vocabSize: 151936,
      intermediateSize: 22016,
      kvHeads: 32,
      headDim: null,
      maxPositions: 32768,
      bosId: null,
      eosId: null,
      attentionBias: "qkv",
      mlpBias: "none",
      window: "layers",
    }),
  forward: (c, inputs) => llamaForward(c, inputs),
};
