// BLOOM (BigScience 2022): GPT with ALiBi in place of positions, a norm behind the embedding, and q, k, v interleaved by head.
import { z } from "zod";
import type { Value } from "../../graph/graph.ts";
import { add } from "../../graph/ops/elementwise.ts";
import { commonConfig, commonKeys, type DecoderConfig, headDimOf } from "../config/config.ts";
import { epsilon, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { gptHeads } from "../heads/index.ts";
import { attend, decoder, layerNormed, mlp, projection, splitByHead } from "../layers/blocks.ts";
import { alibi } from "../layers/positions.ts";

interface BloomConfig extends DecoderConfig {
  layerNormEps: number;
  /** Whether the residual is what the norm gave, not what it read. */
  residualAfterNorm: boolean;
}

const keysOfConfig = z.object({
  vocab_size: sizes.vocab.default(250880),
  hidden_size: sizes.hidden.default(64),
  n_embed: sizes.hidden.nullish(),
  n_layer: sizes.layers.default(2),
  num_hidden_layers: sizes.layers.nullish(),
  n_head: sizes.heads.default(8),
  num_attention_heads: sizes.heads.nullish(),
  seq_length: sizes.positions.default(2048),
  layer_norm_epsilon: epsilon.default(1e-5),
  apply_residual_connection_post_layernorm: z.boolean().default(false),
  ...commonKeys(1, 2, true),
});

export const bloom: Family<BloomConfig> = {
  prefix: "transformer",
  heads: gptHeads,
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const hiddenSize = keys.n_embed ?? keys.hidden_size;
    const heads = keys.num_attention_heads ?? keys.n_head;
    return {
      modelType: "bloom",
      vocabSize: keys.vocab_size,
      hiddenSize,
      layers: keys.num_hidden_layers ?? keys.n_layer,
      heads,
      kvHeads: heads,
      headDim: headDimOf(hiddenSize, heads, file, { hidden: "hidden_size", heads: "n_head" }),
      maxPositions: keys.seq_length, // what it was trained on: ALiBi itself has no end
      layerNormEps: keys.layer_norm_epsilon,
      residualAfterNorm: keys.apply_residual_connection_post_layernorm,
      ...commonConfig(keys, keys.vocab_size, file),
    };
  },
  forward(c, inputs) {
    const { heads, hiddenSize } = c;
    const mlpConfig = { hiddenSize, intermediateSize: 4 * hiddenSize, activation: "geluTanh" } as const;
    const norm = (x: Value, path: string) => layerNormed(x, path, c.layerNormEps);
    const layout = {
      embedding: "transformer.word_embeddings",
      layers: "transformer.h",
      head: "lm_head",
      enter: (x: Value) => norm(x, "transformer.word_embeddings_layernorm"),
      finalNorm: (x: Value) => norm(x, "transformer.ln_f"),
    };
    return decoder(c, inputs, layout, (x, at, _index, context) => {
      const attention = `${at}.self_attention`;
      const read = norm(x, `${at}.input_layernorm`);
      const qkv = projection(read, `${attention}.query_key_value`, 3 * hiddenSize, true);
      const mixed = attend(c, splitByHead(qkv, heads, c.headDim), context, { bias: (keys) => alibi(heads, keys) });
      const h = add(c.residualAfterNorm ? read : x, projection(mixed, `${attention}.dense`, hiddenSize, true));
      const readAgain = norm(h, `${at}.post_attention_layernorm`);
      const changed = mlp(mlpConfig, readAgain, `${at}.mlp.dense_h_to_4h`, `${at}.mlp.dense_4h_to_h`);
      return add(c.residualAfterNorm ? readAgain : h, changed);
    });
  },
};
