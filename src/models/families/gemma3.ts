// Gemma 3's text model (Gemma team 2025): Gemma 2 with norms on query and key heads, and rotary positions by layer type.
import { z } from "zod";
import { type RopeConfig, ropeConfig } from "../config/rope-config.ts";
import { readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { eachHead } from "../layers/blocks.ts";
import { gemmaNorm } from "./gemma.ts";
import { type Gemma2Config, gemma2Config, gemma2Forward } from "./gemma2.ts";

interface Gemma3Config extends Gemma2Config {
  /** Of the layers with a window; `rope` is that of the others. */
  localRope: RopeConfig;
}

const ropeKeys = z.record(z.string(), z.unknown());
const gemma3Keys = z.object({
  sliding_window_pattern: sizes.layers.default(6),
  rope_local_base_freq: z.number().positive().default(10_000),
  rope_scaling: ropeKeys.nullish(),
  rope_parameters: z.object({ full_attention: ropeKeys.nullish(), sliding_attention: ropeKeys.nullish() }).nullish(),
});

export const gemma3: Family<Gemma3Config> = {
  config(json, file) {
    const keys = readJson(gemma3Keys, json, file);
    // v4 has rope_theta and rope_scaling for the full layers and rope_local_base_freq for the others, v5 an object for each.
    const full = { ...keys.rope_parameters?.full_attention, ...keys.rope_scaling };
    const local = { rope_theta: keys.rope_local_base_freq, ...keys.rope_parameters?.sliding_attention };
    const config = gemma2Config(
      { ...(json as object), rope_scaling: null, rope_parameters: full },
      file,
      "gemma3_text",
      [null, null],
      { vocabSize: 262_208, maxPositions: 131_072, theta: 1_000_000, window: keys.sliding_window_pattern },
    );
    const positions = { max_position_embeddings: config.maxPositions };
    return { ...config, localRope: ropeConfig({ rope_parameters: local, ...positions }, config.headDim, file) };
  },
  forward: (c, inputs) =>
    gemma2Forward(c, inputs, (index) => ({
      normQuery: (q, path) => eachHead((head) => gemmaNorm(head, path, c.rmsNormEps), q, c.headDim),
      rope: c.layerTypes[index] === "sliding_attention" ? c.localRope : c.rope,
    })),
};
