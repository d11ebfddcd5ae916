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
    const { heads, kvHeads, headDim, rope, hiddenSize, intermediateSize, rmsNormEps } = c;
    const [q, kv] = [heads * headDim, kvHeads * headDim];
    return decoder(c, inputs, llamaLayout(c), (x, at, index, context) => {
      const fused = projection(rms(x, `${at}.input_layernorm`, rmsNormEps), `${at}.self_attn.qkv_proj`, q + 2 * kv);
      const [queries, keys, values] = split(fused, q, kv, kv) as [typeof x, typeof x, typeof x];
      const window = windowOf(c, index);
      const mixed = attend(queries, keys, values, index, context, { heads, kvHeads, headDim, rope, window });
      const h = add(x, projection(mixed, `${at}.self_attn.o_proj`, hiddenSize));
      const both = projection(
        rms(h, `${at}.post_attention_layernorm`, rmsNormEps),
        `${at}.mlp.gate_up_proj`,
        2 * intermediateSize,
      );
      const [gate, up] = split(both, intermediateSize, intermediateSize) as [typeof x, typeof x];
      return add(h, projection(mul(activations[c.hiddenAct](gate), up), `${at}.mlp.down_proj`, hiddenSize));
    });
  },
};
