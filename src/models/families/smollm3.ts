// SmolLM3 (Hugging Face 2025): Llama's layer without rotary positions in every fourth layer (NoPE, Kazemnejad et al. 2023).
import { z } from "zod";
import { contradiction } from "../config/config.ts";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import { MAX_LAYERS, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { llamaForward } from "./llama.ts";

interface Smollm3Config extends LlamaConfig {
  /** Whether a layer rotates queries and keys, one per layer. */
  rotates: boolean[];
}

const ropeKeys = z.object({
  /** 1 where a layer has rotary positions, for all its name says. */
  no_rope_layers: z
    .array(z.union([z.literal(0), z.literal(1), z.boolean()]))
    .max(MAX_LAYERS)
    .nullish(),
  no_rope_layer_interval: sizes.layers.default(4),
});

export const smollm3: Family<Smollm3Config> = {
  isPart: true,
  config(json, file) {
    const config = llamaConfig(json, file, "smollm3", {
      vocabSize: 128256,
      hiddenSize: 2048,
      intermediateSize: 11008,
      layers: 36,
      heads: 16,
      kvHeads: 4,
      maxPositions: 32768,
      theta: 2_000_000,
      bosId: 128000,
      eosId: 128001,
      padId: 128004,
      tied: true,
      attentionBias: "key",
      mlpBias: "key",
      window: "layers",
      slidingWindow: null,
    });
    const { no_rope_layers: given, no_rope_layer_interval: interval } = readJson(ropeKeys, json, file);
    if (given && given.length !== config.layers) {
      throw contradiction(file, "no_rope_layers", `num_hidden_layers ${config.layers} entries`, given.length);
    }
    const rotates = Array.from({ length: config.layers }, (_, i) => (given ? Boolean(given[i]) : (i + 1) % interval !== 0));
    return { ...config, rotates };
  },
  forward: (c, inputs) => llamaForward(c, inputs, { attention: (index) => (c.rotates[index] ? {} : { rope: null }) }),
};
