// Mistral (Jiang et al. 2023): Llama's layer; all layers see a sliding window, which is in the mask.
import { llamaLike } from "./llama.ts";

export const mistral = llamaLike("mistral", {
  vocabSize: 32000,
  intermediateSize: 14336,
  kvHeads: 8,
  maxPositions: 131072,
  bosId: 1,
  eosId: 2,
  window: "every",
});
