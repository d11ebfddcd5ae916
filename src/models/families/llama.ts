// Llama (Touvron et al. 2023; Llama 3: Dubey et al. 2024): pre-norm decoder, grouped queries, rotary positions, SwiGLU.
import type { Value } from "../../graph/graph.ts";
import { add } from "../../graph/ops/elementwise.ts";
import { type LlamaConfig, type LlamaDefaults, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import type { DecoderInputs, DecoderOutputs, SelfAttentionOptions } from "../layers/blocks.ts";
import { decoder, gatedMlp, llamaLayout, rms, selfAttention } from "../layers/blocks.ts";

/** What a relative does differently in layer `index`: its attention, and what reads the second norm, [batch*seq, hidden] → the same shape. */
interface LlamaVariant {
  attention?(index: number): SelfAttentionOptions;
  mlp?(x: Value, at: string, index: number): Value;
}

/** Llama's layers, or those of a relative. */
export const llamaForward = (c: LlamaConfig, inputs: DecoderInputs, { attention, mlp }: LlamaVariant = {}): DecoderOutputs =>
  decoder(c, inputs, llamaLayout(c), (x, at, index, context) => {
    const before = rms(x, `${at}.input_layernorm`, c.rmsNormEps);
    const h = add(x, selfAttention(c, before, `${at}.self_attn`, index, context, attention?.(index)));
    const read = rms(h, `${at}.post_attention_layernorm`, c.rmsNormEps);
    return add(h, mlp ? mlp(read, at, index) : gatedMlp(c, read, `${at}.mlp`));
  });

/** A relative of Llama without keys of its own. */
export const llamaLike = (
  modelType: string,
  defaults: LlamaDefaults,
  variant?: (c: LlamaConfig) => LlamaVariant,
): Family<LlamaConfig> => ({
  isPart: true,
  config: (json, file) => llamaConfig(json, file, modelType, defaults),
  forward: (c, inputs) => llamaForward(c, inputs, variant?.(c)),
});

export const llama = llamaLike("llama", {
  vocabSize: 32000,
  intermediateSize: 11008,
  maxPositions: 2048,
  bosId: 1,
  eosId: 2,
  attentionBias: "key",
  mlpBias: "key",
});
