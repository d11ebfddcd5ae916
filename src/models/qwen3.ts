// Qwen3 (Yang et al. 2025): Llama's layer with an RMSNorm on each query and key head before the rotation.
import { add } from "../graph/ops/elementwise.ts";
import { type Decoder, decoder, gatedMlp, norm, selfAttention } from "./blocks.ts";

export const qwen3: Decoder = (config, inputs) =>
  decoder(config, inputs, (c, x, at, index, context) => {
    const headNorm = (y: typeof x, path: string) => norm(c, y, path);
    const attended = selfAttention(c, norm(c, x, `${at}.input_layernorm`), `${at}.self_attn`, index, context, headNorm);
    const h = add(x, attended);
    return add(h, gatedMlp(c, norm(c, h, `${at}.post_attention_layernorm`), `${at}.mlp`));
  });
