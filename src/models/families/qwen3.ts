// Qwen3 (Yang et al. 2025): Llama's layer with an RMSNorm on each query and key head before the rotation.
import { eachHead, rms } from "../layers/blocks.ts";
import { llamaLike } from "./llama.ts";

export const qwen3 = llamaLike(
  "qwen3",
  {
    vocabSize: 151936,
    intermediateSize: 22016,
    kvHeads: 32,
    headDim: 128,
    maxPositions: 32768,
    attentionBias: "key",
    window: "layers",
  },
  (c) => ({
    attention: () => ({ normQuery: (q, path) => eachHead((head) => rms(head, path, c.rmsNormEps), q, c.headDim) }),
  }),
);
