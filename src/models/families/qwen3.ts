// Qwen3 (Yang et al. 2025): Llama's layer with an RMSNorm on each query and key head before the rotation.

import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { eachHead, rms } from "../layers/blocks.ts";
import { llamaForward } from "./llama.ts";

export const qwen3: Family<LlamaConfig> = {
  isPart: true,
  config: (json, file) =>
    llamaConfig(json, file, "qwen3", {
      vocabSize: 151936,
      intermediateSize: 22016,
      kvHeads: 32,
      headDim: 128,
      maxPositions: 32768,
      bosId: null,
      eosId: null,
      attentionBias: "key",
      mlpBias: "none",
      window: "layers",
    }),
  forward: (c, inputs) =>
    llamaForward(c, inputs, () => ({
      normQuery: (q, path) => eachHead((head) => rms(head, path, c.rmsNormEps), q, c.headDim),
    })),
};
