// CLIP (Radford et al. 2021): a tower for images and one for texts, whose projections are compared by their cosine.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add, equal } from "../../graph/ops/elementwise.ts";
import { iota, scalar, weight } from "../../graph/ops/leaves.ts";
import { reduceMax } from "../../graph/ops/reduction.ts";
import { reshape } from "../../graph/ops/shape.ts";
import {
  type BackboneConfig,
  commonConfig,
  commonKeys,
  contradiction,
  type LayerConfig,
  layerConfig,
  layerKeys,
} from "../config/config.ts";
import { MAX_VOCAB, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { layerNormed, lookup, type ModelInputs, projection, tokenInputs } from "../layers/blocks.ts";
import { firstWhere, tokensWhere, towerStates } from "../layers/encoder.ts";
import { additiveMask } from "../layers/positions.ts";
import { clipVision, clipVisionConfig, pixelInput, type VisionConfig } from "../layers/vision.ts";

interface TextConfig extends LayerConfig {
  vocabSize: number;
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
  projection_dim: sizes.hidden.default(512),
  text_config: tower,
  vision_config: tower,
  text_config_dict: tower,
  vision_config_dict: tower,
  ...commonKeys(null, null, true),
});
const keysOfText = z.object({
  vocab_size: sizes.vocab.default(49408),
  ...layerKeys({ hiddenSize: 512, layers: 12, heads: 8, intermediateSize: 2048, activation: "quick_gelu", layerNormEps: 1e-5 }),
  max_position_embeddings: sizes.positions.default(77),
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
  inputs: (c) => ({ ...tokenInputs("inputIds", "attentionMask"), pixelValues: pixelInput(c.vision) }),
  forward(c, { inputIds, attentionMask, pixelValues }) {
    const { normed } = clipVision(c.vision, pixelValues!, "vision_model");
    return {
      towers: {
        image: projection(normed, "visual_projection", c.hiddenSize), // [images, projection]
        text: projection(textTower(c.text, inputIds!, attentionMask!), "text_projection", c.hiddenSize), // [texts, projection]
        logScale: weight("logit_scale", []),
      },
    };
  },
};

function textConfig(json: unknown, file: string): TextConfig {
  const keys = readJson(keysOfText, json, file, "text_config");
  const { vocab_size: vocabSize, max_position_embeddings: maxPositions } = keys;
  const layers = layerConfig(keys, file, "text_config.");
  const { eosIds, padId } = commonConfig(keys, vocabSize, file);
  if (eosIds.length !== 1) throw contradiction(file, "text_config.eos_token_id", "one id", keys.eos_token_id);
  return { vocabSize, ...layers, maxPositions, eosId: eosIds[0] === WRONG_EOS ? null : eosIds[0]!, padId };
}

/** Causal, and pooled at the first end token: int32 [batch, seq] → [batch, hidden]. */
function textTower(c: TextConfig, inputIds: Value, attentionMask: Value): Value {
  const [batch, seq] = inputIds.shape as [Dim, Dim];
  const at = "text_model";
  const tokens = lookup(inputIds, `${at}.embeddings.token_embedding`, c.vocabSize, c.hiddenSize); // [batch, seq, hidden]
  const places = lookup(iota(seq), `${at}.embeddings.position_embedding`, c.maxPositions, c.hiddenSize); // [seq, hidden]
  const first = reshape(add(tokens, places), [mulDims(batch, seq), c.hiddenSize]);
  const context = { heads: c.heads, mask: additiveMask({ inputIds, attentionMask }, null), causal: true };
  const last = towerStates(c, first, at, context).at(-1)!;
  return layerNormed(tokensWhere(last, firstEnd(c, inputIds)), `${at}.final_layer_norm`, c.layerNormEps);
}

/** True at the first end token of each row, at its first token where it has none: bool [batch, seq]. */
function firstEnd({ eosId, maxPositions }: TextConfig, inputIds: Value): Value {
  return firstWhere(equal(inputIds, eosId === null ? reduceMax(inputIds, [1]) : scalar(eosId, inputIds)), maxPositions);
}
