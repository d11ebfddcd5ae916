// Mistral (Jiang et al. 2023): Llama's layer; its sliding window is in the mask, chosen by config.layerTypes.
import type { Decoder } from "./blocks.ts";
import { llama } from "./llama.ts";

export const mistral: Decoder = llama;
