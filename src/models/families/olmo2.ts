// OLMo 2 (OLMo team 2024): norms after attention and MLP instead of before, and over the whole rows of queries and keys.
import { add } from "../../graph/ops/elementwise.ts";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { decoder, gatedMlp, llamaLayout, rms, selfAttention } from "../layers/blocks.ts";

export const olmo2: Family<LlamaConfig> = {
  isPart: true,
  config: (json, file) =>
    llamaConfig(json, file, "olmo2", {
      vocabSize: 50304,
      intermediateSize: 11008,
      rmsNormEps: 1e-5,
      maxPositions: 2048,
      eosId: 50279,
      padId: 1,
      attentionBias: "key",
    }),
  forward: (c, inputs) =>
    decoder(c, inputs, llamaLayout(c), (x, at, index, context) => {
      const norm = (y: typeof x, path: string) => rms(y, path, c.rmsNormEps);
      const attended = selfAttention(c, x, `${at}.self_attn`, index, context, { normQuery: norm });
      const h = add(x, norm(attended, `${at}.post_attention_layernorm`));
      return add(h, norm(gatedMlp(c, h, `${at}.mlp`), `${at}.post_feedforward_layernorm`));
    }),
};
