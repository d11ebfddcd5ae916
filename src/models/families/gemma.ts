// Gemma (Gemma team 2024): Llama's layer with embeddings times √hidden, norm weights stored as w - 1, and a tanh-GELU gate.
import type { Value } from "../../graph/graph.ts";
import { add, mul } from "../../graph/ops/elementwise.ts";
import { scalar, weight } from "../../graph/ops/leaves.ts";
import { rmsNorm } from "../../graph/ops/normalization.ts";
import { onlyValue } from "../config/config.ts";
import { type LlamaConfig, type LlamaDefaults, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { decoder, gatedMlp, type Layout, llamaLayout, selfAttention } from "../layers/blocks.ts";

const defaults: LlamaDefaults = {
  vocabSize: 256000,
  hiddenSize: 3072,
  intermediateSize: 24576,
  layers: 28,
  heads: 16,
  kvHeads: 16,
  headDim: 256,
  hiddenAct: "gelu_pytorch_tanh",
  maxPositions: 8192,
  bosId: 2,
  eosId: 1,
  padId: 0,
  tied: true,
  attentionBias: "key",
};

/** Reads the keys that all Gemmas have; `own` are the defaults that differ from Gemma's. */
export function gemmaConfig(json: unknown, file: string, modelType: string, own: Partial<LlamaDefaults>): LlamaConfig {
  onlyValue(json, file, "use_bidirectional_attention", false);
  return llamaConfig(json, file, modelType, { ...defaults, ...own });
}

export const gemma: Family<LlamaConfig> = {
  config: (json, file) => gemmaConfig(json, file, "gemma", {}),
  forward: (c, inputs) =>
    decoder(c, inputs, gemmaLayout(c), (x, at, index, context) => {
      const before = gemmaNorm(x, `${at}.input_layernorm`, c.rmsNormEps);
      const h = add(x, selfAttention(c, before, `${at}.self_attn`, index, context));
      return add(h, gatedMlp(c, gemmaNorm(h, `${at}.post_attention_layernorm`, c.rmsNormEps), `${at}.mlp`));
    }),
};

/** RMSNorm whose weight is stored as what it differs from 1. */
export function gemmaNorm(x: Value, path: string, epsilon: number): Value {
  const stored = weight(`${path}.weight`, [Number(x.shape.at(-1))]);
  return rmsNorm(x, add(stored, scalar(1, stored)), epsilon);
}

/** Llama's layout with Gemma's norm and scaled embeddings. */
export const gemmaLayout = (c: LlamaConfig, softcap?: number): Layout => ({
  ...llamaLayout(c),
  enter: (x) => mul(x, scalar(Math.fround(Math.sqrt(c.hiddenSize)), x)),
  finalNorm: (x) => gemmaNorm(x, "model.norm", c.rmsNormEps),
  softcap,
});
