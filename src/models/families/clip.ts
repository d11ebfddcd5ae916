// CLIP (Radford et al. 2021): a tower for images and one for texts, whose projections are compared by their cosine.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add, equal, sub, where } from "../../graph/ops/elementwise.ts";
import { embedding } from "../../graph/ops/indexing.ts";
import { constant, input, iota, weight } from "../../graph/ops/leaves.ts";
import { reduceMax } from "../../graph/ops/reduction.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { activationOf, type BackboneConfig, commonConfig, commonKeys, contradiction, headDimOf } from "../config/config.ts";
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
import { layerNormed, type ModelInputs, projection } from "../layers/blocks.ts";
import { type TowerLayer, tokensWhere, towerLayer } from "../layers/encoder.ts";
import { additiveMask } from "../layers/positions.ts";
import { clipVision, clipVisionConfig, pixelInput, type VisionConfig } from "../layers/vision.ts";

interface TextConfig extends TowerLayer {
  vocabSize: number;
  hiddenSize: number;
  layers: number;
  heads: number;
  maxPositions: number;
  /** The token whose state stands for the text; null: the token with the greatest id. */
  eosId: number | null;
  padId: number | null;
}

interface ClipConfig extends BackboneConfig {
  text: TextConfig;
  vision: VisionConfig;
}

const tower = z.record(z.string(), z.unknown()).nullish();
const keysOfConfig = z.object({
  projection_dim: count(MAX_HIDDEN).default(512),
  text_config: tower,
  vision_config: tower,
  text_config_dict: tower,
  vision_config_dict: tower,
  ...commonKeys(null, null, true),
});
const keysOfText = z.object({
  vocab_size: count(MAX_VOCAB).default(49408),
  hidden_size: count(MAX_HIDDEN).default(512),
  intermediate_size: count(MAX_INTERMEDIATE).default(2048),
  num_hidden_layers: count(MAX_LAYERS).default(12),
  num_attention_heads: count(MAX_HEADS).default(8),
  max_position_embeddings: count(MAX_POSITIONS).default(77),
  hidden_act: z.string().default("quick_gelu"),
  layer_norm_eps: z.number().positive().max(1).default(1e-5),
  ...commonKeys(49406, 49407, true, 1),
});

/** The end-of-text id of configs from before it was right; the end token then is the one with the greatest id. */
const WRONG_EOS = 2;

export const clip: Family<ClipConfig, ModelInputs> = {
  heads: { contrastive: null },
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    // Where an old config has both, the one ending in _dict counts.
    const text = textConfig(keys.text_config_dict ?? keys.text_config ?? {}, file);
    return {
      modelType: "clip",
      dtype: commonConfig(keys, MAX_VOCAB, file).dtype,
      maxPositions: text.maxPositions,
      vocabSize: text.vocabSize,
      padId: text.padId,
      text,
      vision: clipVisionConfig(keys.vision_config_dict ?? keys.vision_config ?? {}, file),
      hiddenSize: keys.projection_dim,
    };
  },
  inputs(c) {
    const tokens = (name: string) => input(name, "int32", ["batch", "seq"]);
    return { inputIds: tokens("inputIds"), attentionMask: tokens("attentionMask"), pixelValues: pixelInput(c.vision) };
  },
  forward(c, { inputIds, attentionMask, pixelValues }) {
    const { pooled } = clipVision(c.vision, pixelValues!, "vision_model");
    return {
      towers: {
        image: projection(pooled, "visual_projection", c.hiddenSize), // [images, projection]
        text: projection(textTower(c.text, inputIds!, attentionMask!), "text_projection", c.hiddenSize), // [texts, projection]
        logScale: weight("logit_scale", []),
      },
    };
  },
};

function textConfig(json: unknown, file: string): TextConfig {
  const keys = readJson(keysOfText, json, file, "text_config");
  const { vocab_size: vocabSize, hidden_size: hiddenSize, num_attention_heads: heads } = keys;
  headDimOf(hiddenSize, heads, file, { hidden: "text_config.hidden_size", heads: "num_attention_heads" });
  const { eosIds, padId } = commonConfig(keys, vocabSize, file);
  if (eosIds.length !== 1) throw contradiction(file, "text_config.eos_token_id", "one id", keys.eos_token_id);
  return {
    vocabSize,
    hiddenSize,
    layers: keys.num_hidden_layers,
    heads,
    intermediateSize: keys.intermediate_size,
    activation: activationOf(keys.hidden_act, "text_config.hidden_act", file),
    layerNormEps: keys.layer_norm_eps,
    maxPositions: keys.max_position_embeddings,
    eosId: eosIds[0] === WRONG_EOS ? null : eosIds[0]!,
    padId,
  };
}

/** Causal, and pooled at the first end token: int32 [batch, seq] → [batch, hidden]. */
function textTower(c: TextConfig, inputIds: Value, attentionMask: Value): Value {
  const [batch, seq] = inputIds.shape as [Dim, Dim];
  const at = "text_model";
  const rows = (ids: Value, name: string, length: number) => {
    const path = `${at}.embeddings.${name}`;
    return embedding(ids, weight(`${path}.weight`, [length, c.hiddenSize]), path);
  };
  const tokens = rows(inputIds, "token_embedding", c.vocabSize); // [batch, seq, hidden]
  const places = rows(iota(seq), "position_embedding", c.maxPositions); // [seq, hidden]
  let x = reshape(add(tokens, places), [mulDims(batch, seq), c.hiddenSize]);
  const mask = additiveMask({ inputIds, attentionMask }, null);
  const context = { batch, seq, heads: c.heads, mask, causal: true };
  for (let i = 0; i < c.layers; i++) x = towerLayer(c, x, `${at}.encoder.layers.${i}`, context);
  return layerNormed(tokensWhere(x, firstEnd(c, inputIds)), `${at}.final_layer_norm`, c.layerNormEps);
}

/** True at the first end token of each row, at its first token where it has none: bool [batch, seq]. */
function firstEnd({ eosId, maxPositions }: TextConfig, inputIds: Value): Value {
  const seq = inputIds.shape[1]!;
  const int = (n: number) => constant("int32", [], [n]);
  const isEnd = equal(inputIds, eosId === null ? reduceMax(inputIds, [1]) : int(eosId));
  const earliness = sub(where(isEnd, int(maxPositions), int(0)), iota(seq)); // different at each place of a row
  return equal(earliness, reduceMax(earliness, [1]));
}
