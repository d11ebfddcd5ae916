// Llama (Touvron et al. 2023; Llama 3: Dubey et al. 2024): pre-norm decoder, grouped queries, rotary positions, SwiGLU.
import { add } from "../../graph/ops/elementwise.ts";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { decoder, gatedMlp, llamaLayout, rms, type SelfAttentionOptions, selfAttention } from "../layers/blocks.ts";

export const llama: Family<LlamaConfig> = {
  isPart: true,
  config: (json, file) =>
    llamaConfig(json, file, "llama", {
      vocabSize: 32000,
      intermediateSize: 11008,
      kvHeads: null,
      headDim: null,
      maxPositions: 2048,
      bosId: 1,
      eosId: 2,
      attentionBias: "key",
      mlpBias: "key",
      window: "none",
    }),
  forward: (c, inputs) => llamaForward(c, inputs),
};

/** Llama's layers; `attention` says what a relative does differently in layer `index`. */
export const llamaForward = (
  c: LlamaConfig,
  inputs: Parameters<typeof decoder>[1],
  attention: (index: number) => SelfAttentionOptions = () => ({}),
): ReturnType<typeof decoder> =>
  decoder(c, inputs, llamaLayout(c), (x, at, index, context) => {
    const before = rms(x, `${at}.input_layernorm`, c.rmsNormEps);
    const h = add(x, selfAttention(c, before, `${at}.self_attn`, index, context, attention(index)));
    return add(h, gatedMlp(c, rms(h, `${at}.post_attention_layernorm`, c.rmsNormEps), `${at}.mlp`));
  });
