// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama's layer with biases on q, k and v, which config.attentionBias says.
import type { Decoder } from "./blocks.ts";
import { llama } from "./llama.ts";

export const qwen2: Decoder = llama;
