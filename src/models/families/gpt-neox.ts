// GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): attention and MLP read the same input, part of each head rotates.
import { z } from "zod";
import { add } from "../../graph/ops/elementwise.ts";
import { commonConfig, commonKeys, type DecoderConfig, type LayerConfig, layerConfig, layerKeys } from "../config/config.ts";
import { type RopeConfig, ropeConfig, ropeKeys } from "../config/rope-config.ts";
import { readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { gptHeads } from "../heads/index.ts";
import { attend, decoder, layerNormed, mlp, projection, splitByHead } from "../layers/blocks.ts";

interface GptNeoxConfig extends DecoderConfig, LayerConfig {
  /** A bias on query_key_value and dense. */
  attentionBias: boolean;
  /** Whether the MLP reads the layer's input, not the attention's output. */
  parallelResidual: boolean;
  rope: RopeConfig;
}

const keysOfConfig = z.object({
  vocab_size: sizes.vocab.default(50432),
  ...layerKeys({ hiddenSize: 6144, layers: 44, heads: 64, intermediateSize: 24576, activation: "gelu", layerNormEps: 1e-5 }),
  max_position_embeddings: sizes.positions.default(2048),
  attention_bias: z.boolean().default(true),
  use_parallel_residual: z.boolean().default(true),
  rotary_pct: z.number().gt(0).max(1).default(0.25),
  rotary_emb_base: z.number().positive().default(10_000),
  ...commonKeys(0, 2, false),
  ...ropeKeys,
});

export const gptNeox: Family<GptNeoxConfig> = {
  prefix: "gpt_neox",
  heads: gptHeads,
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const { hiddenSize, layers, heads, ...mlp } = layerConfig(keys, file);
    const headDim = hiddenSize / heads;
    const { rotary_pct: partial_rotary_factor, rotary_emb_base: theta } = keys;
    const rope = ropeConfig({ partial_rotary_factor, ...keys }, headDim, file, theta);
    return {
      modelType: "gpt_neox",
      vocabSize: keys.vocab_size,
      hiddenSize,
      layers,
      heads,
      kvHeads: heads,
      headDim,
      maxPositions: keys.max_position_embeddings,
      ...mlp,
      attentionBias: keys.attention_bias,
      parallelResidual: keys.use_parallel_residual,
      rope,
      ...commonConfig(keys, keys.vocab_size, file),
    };
  },
  forward(c, inputs) {
    const { rope, hiddenSize } = c;
    const norm = (x: typeof inputs.inputIds, path: string) => layerNormed(x, path, c.layerNormEps);
    const layout = {
      embedding: "gpt_neox.embed_in",
      layers: "gpt_neox.layers",
      head: "embed_out",
      finalNorm: (x: typeof inputs.inputIds) => norm(x, "gpt_neox.final_layer_norm"),
    };
    return decoder(c, inputs, layout, (x, at, _index, context) => {
      const attention = `${at}.attention`;
      const read = norm(x, `${at}.input_layernorm`);
      const qkv = projection(read, `${attention}.query_key_value`, 3 * hiddenSize, c.attentionBias);
      const mixed = attend(c, splitByHead(qkv, c.heads, c.headDim), context, { rope });
      const h = add(x, projection(mixed, `${attention}.dense`, hiddenSize, c.attentionBias));
      const readAgain = norm(c.parallelResidual ? x : h, `${at}.post_attention_layernorm`);
      return add(h, mlp(c, readAgain, `${at}.mlp.dense_h_to_4h`, `${at}.mlp.dense_4h_to_h`));
    });
  },
};
