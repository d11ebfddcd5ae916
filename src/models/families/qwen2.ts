// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama's layer with biases on q, k and v.
import { llamaLike } from "./llama.ts";

export const qwen2 = llamaLike("qwen2", {
  vocabSize: 151936,
  intermediateSize: 22016,
  kvHeads: 32,
  maxPositions: 32768,
  attentionBias: "qkv",
  window: "layers",
});
