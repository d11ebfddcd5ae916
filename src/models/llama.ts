// Llama (Touvron et al. 2023; Llama 3: Dubey et al. 2024): pre-norm decoder, grouped queries, rotary positions, SwiGLU.
import { add } from "../graph/ops/elementwise.ts";
import { type Decoder, decoder, gatedMlp, norm, selfAttention } from "./blocks.ts";

export const llama: Decoder = (config, inputs) =>
  decoder(config, inputs, (c, x, at, index, context) => {
    const h = add(x, selfAttention(c, norm(c, x, `${at}.input_layernorm`), `${at}.self_attn`, index, context));
    return add(h, gatedMlp(c, norm(c, h, `${at}.post_attention_layernorm`), `${at}.mlp`));
  });
