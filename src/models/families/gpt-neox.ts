// GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): attention and MLP read the same input, part of each head rotates.
import { z } from "zod";
import { add } from "../../graph/ops/elementwise.ts";
import { activationOf, commonConfig, commonKeys, type DecoderConfig, headDimOf } from "../config/config.ts";
import { type RopeConfig, ropeConfig, ropeKeys } from "../config/rope-config.ts";
import {
  count,
  MAX_HEADS,
  MAX_HIDDEN,
  MAX_INTERMEDIATE,
  MAX_LAYERS,
  MAX_POSITIONS,
  MAX_VOCAB,
  readJson,
} from "../config/schema.ts";
import type { Family } from "../family.ts";
import { decoderHeads } from "../heads/index.ts";
import { type ActivationName, activations } from "../layers/activations.ts";
import { attend, decoder, layerNormed, projection, splitByHead } from "../layers/blocks.ts";

interface GptNeoxConfig extends DecoderConfig {
  intermediateSize: number;
  activation: ActivationName;
  layerNormEps: number;
  /** A bias on query_key_value and dense. */
  attentionBias: boolean;
  /** Whether the MLP reads the layer's input, not the attention's output. */
  parallelResidual: boolean;
  rope: RopeConfig;
}

const keysOfConfig = z.object({
  vocab_size: count(MAX_VOCAB).default(50432),
  hidden_size: count(MAX_HIDDEN).default(6144),
  num_hidden_layers: count(MAX_LAYERS).default(44),
  num_attention_heads: count(MAX_HEADS).default(64),
  intermediate_size: count(MAX_INTERMEDIATE).default(24576),
  hidden_act: z.string().default("gelu"),
  layer_norm_eps: z.number().positive().max(1).default(1e-5),
  max_position_embeddings: count(MAX_POSITIONS).default(2048),
  attention_bias: z.boolean().default(true),
  use_parallel_residual: z.boolean().default(true),
  rotary_pct: z.number().gt(0).max(1).default(0.25),
  rotary_emb_base: z.number().positive().default(10_000),
  ...commonKeys(0, 2, false),
  ...ropeKeys,
});

export const gptNeox: Family<GptNeoxConfig> = {
  prefix: "gpt_neox",
  heads: { ...decoderHeads, "token-classifier": { path: "classifier", bias: true } },
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const { vocab_size: vocabSize, hidden_size: hiddenSize, num_attention_heads: heads } = keys;
    const headDim = headDimOf(hiddenSize, heads, file, { hidden: "hidden_size", heads: "num_attention_heads" });
    const { rotary_pct: partial_rotary_factor, rotary_emb_base: theta } = keys;
    const rope = ropeConfig({ partial_rotary_factor, ...keys }, headDim, file, theta);
    return {
      modelType: "gpt_neox",
      vocabSize,
      hiddenSize,
      layers: keys.num_hidden_layers,
      heads,
      kvHeads: heads,
      headDim,
      maxPositions: keys.max_position_embeddings,
      intermediateSize: keys.intermediate_size,
      activation: activationOf(keys.hidden_act, "hidden_act", file),
      layerNormEps: keys.layer_norm_eps,
      attentionBias: keys.attention_bias,
      parallelResidual: keys.use_parallel_residual,
      rope,
      ...commonConfig(keys, vocabSize, file),
    };
  },
  forward(c, inputs) {
    const { heads, kvHeads, headDim, rope, hiddenSize } = c;
    const norm = (x: typeof inputs.inputIds, path: string) => layerNormed(x, path, c.layerNormEps);
    const layout = {
      embedding: "gpt_neox.embed_in",
      layers: "gpt_neox.layers",
      head: "embed_out",
      finalNorm: (x: typeof inputs.inputIds) => norm(x, "gpt_neox.final_layer_norm"),
    };
    return decoder(c, inputs, layout, (x, at, index, context) => {
      const attention = `${at}.attention`;
      const read = norm(x, `${at}.input_layernorm`);
      const qkv = projection(read, `${attention}.query_key_value`, 3 * hiddenSize, c.attentionBias);
      const mixed = attend(...splitByHead(qkv, heads, headDim), index, context, { heads, kvHeads, headDim, rope });
      const h = add(x, projection(mixed, `${attention}.dense`, hiddenSize, c.attentionBias));
      const wide = projection(
        norm(c.parallelResidual ? x : h, `${at}.post_attention_layernorm`),
        `${at}.mlp.dense_h_to_4h`,
        c.intermediateSize,
        true,
      );
      return add(h, projection(activations[c.activation](wide), `${at}.mlp.dense_4h_to_h`, hiddenSize, true));
    });
  },
};
