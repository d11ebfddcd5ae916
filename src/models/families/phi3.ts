// Phi-3 (Abdin et al. 2024): Llama's layer with queries, keys and values in one projection, and gate and up in another.
import { add, mul } from "../../graph/ops/elementwise.ts";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import type { Family } from "../family.ts";
import { activations } from "../layers/activations.ts";
import { attend, decoder, llamaLayout, projection, rms, split, windowOf } from "../layers/blocks.ts";

export const phi3: Family<LlamaConfig> = {
  isPart: true,
  config: (json, file) =>
    llamaConfig(json, file, "phi3", {
      vocabSize: 32064,
      hiddenSize: 3072,
      intermediateSize: 8192,
      rmsNormEps: 1e-5,
      maxPositions: 4096,
      bosId: 1,
      eosId: 32000,
      padId: 32000,
      window: "every",
      slidingWindow: null,
    }),
  forward(c, inputs) {
    const { rope, hiddenSize, intermediateSize: wide, rmsNormEps } = c;
    const [q, kv] = [c.heads * c.headDim, c.kvHeads * c.headDim];
    return decoder(c, inputs, llamaLayout(c), (x, at, index, context) => {
      const fused = projection(rms(x, `${at}.input_layernorm`, rmsNormEps), `${at}.self_attn.qkv_proj`, q + 2 * kv);
      const mixed = attend(c, split(fused, q, kv, kv), context, { rope, window: windowOf(c, index) });
      const h = add(x, projection(mixed, `${at}.self_attn.o_proj`, hiddenSize));
      const read = rms(h, `${at}.post_attention_layernorm`, rmsNormEps);
      const [gate, up] = split(projection(read, `${at}.mlp.gate_up_proj`, 2 * wide), wide, wide);
      return add(h, projection(mul(activations[c.hiddenAct](gate), up), `${at}.mlp.down_proj`, hiddenSize));
    });
  },
};
