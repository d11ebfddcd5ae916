// GPT-2 (Radford et al. 2019): learned positions, pre-norm, and linear layers whose weight is stored as [in, out] (Conv1D).
import { z } from "zod";
import { mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add } from "../../graph/ops/elementwise.ts";
import { weight } from "../../graph/ops/leaves.ts";
import { linear } from "../../graph/ops/linear.ts";
import { reshape, transpose } from "../../graph/ops/shape.ts";
import {
  activationOf,
  commonConfig,
  commonKeys,
  type DecoderConfig,
  headDimOf,
  type LayerConfig,
  onlyValue,
} from "../config/config.ts";
import { epsilon, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { gptHeads } from "../heads/index.ts";
import { activations } from "../layers/activations.ts";
import { attend, decoder, layerNormed, lookup, split } from "../layers/blocks.ts";

interface Gpt2Config extends DecoderConfig, LayerConfig {
  /** Whether scores are divided by √headDim, and by the layer's number. */
  scaleByHead: boolean;
  scaleByLayer: boolean;
}

const keysOfConfig = z.object({
  vocab_size: sizes.vocab.default(50257),
  n_positions: sizes.positions.default(1024),
  n_embd: sizes.hidden.default(768),
  n_layer: sizes.layers.default(12),
  n_head: sizes.heads.default(12),
  n_inner: sizes.intermediate.nullish(),
  activation_function: z.string().default("gelu_new"),
  layer_norm_epsilon: epsilon.default(1e-5),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
  ...commonKeys(50256, 50256, true),
});

export const gpt2: Family<Gpt2Config> = {
  prefix: "transformer",
  heads: gptHeads,
  config(json, file) {
    onlyValue(json, file, "add_cross_attention", false);
    const keys = readJson(keysOfConfig, json, file);
    const { vocab_size: vocabSize, n_embd: hiddenSize, n_head: heads } = keys;
    return {
      modelType: "gpt2",
      vocabSize,
      hiddenSize,
      layers: keys.n_layer,
      heads,
      kvHeads: heads,
      headDim: headDimOf(hiddenSize, heads, file, { hidden: "n_embd", heads: "n_head" }),
      maxPositions: keys.n_positions,
      intermediateSize: keys.n_inner ?? 4 * hiddenSize,
      activation: activationOf(keys.activation_function, "activation_function", file),
      layerNormEps: keys.layer_norm_epsilon,
      scaleByHead: keys.scale_attn_weights,
      scaleByLayer: keys.scale_attn_by_inverse_layer_idx,
      ...commonConfig(keys, vocabSize, file),
    };
  },
  forward(c, inputs) {
    const { hiddenSize } = c;
    const norm = (x: Value, path: string) => layerNormed(x, path, c.layerNormEps);
    const places = reshape(inputs.positionIds, [mulDims(...inputs.positionIds.shape)]);
    const layout = {
      embedding: "transformer.wte",
      layers: "transformer.h",
      head: "lm_head",
      enter: (x: Value) => add(x, lookup(places, "transformer.wpe", c.maxPositions, hiddenSize)),
      finalNorm: (x: Value) => norm(x, "transformer.ln_f"),
    };
    return decoder(c, inputs, layout, (x, at, index, context) => {
      const qkv = conv1d(norm(x, `${at}.ln_1`), `${at}.attn.c_attn`, 3 * hiddenSize);
      const scale = (c.scaleByHead ? c.headDim ** -0.5 : 1) / (c.scaleByLayer ? index + 1 : 1);
      const mixed = attend(c, split(qkv, hiddenSize, hiddenSize, hiddenSize), context, { scale });
      const h = add(x, conv1d(mixed, `${at}.attn.c_proj`, hiddenSize));
      const wide = activations[c.activation](conv1d(norm(h, `${at}.ln_2`), `${at}.mlp.c_fc`, c.intermediateSize));
      return add(h, conv1d(wide, `${at}.mlp.c_proj`, hiddenSize));
    });
  },
};

/** A linear layer whose weight is stored as [in, out]: x [n, in] → [n, out]. */
function conv1d(x: Value, path: string, out: number): Value {
  const stored = weight(`${path}.weight`, [Number(x.shape[1]), out]);
  return linear(x, transpose(stored, [1, 0]), path, weight(`${path}.bias`, [out]));
}
