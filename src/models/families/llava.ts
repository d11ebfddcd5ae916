// LLaVA (Liu et al. 2023): features of patches from CLIP or SigLIP, through a projector of two layers, in the place of image tokens.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import { concat, reshape, slice } from "../../graph/ops/shape.ts";
import { activationOf, contradiction, onlyValue, unsupported } from "../config/config.ts";
import { MAX_LAYERS, MAX_VOCAB, readJson, shownValue } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { imageTokenOf, placedFeeds } from "../image-feeds.ts";
import { type ActivationName, activations } from "../layers/activations.ts";
import { projection } from "../layers/blocks.ts";
import {
  clipVision,
  clipVisionConfig,
  patchCount,
  pixelInput,
  siglipVision,
  siglipVisionConfig,
  type VisionConfig,
} from "../layers/vision.ts";
import { textForward, textModel, type WithText } from "../text-model.ts";

interface LlavaConfig extends WithText {
  vision: VisionConfig;
  visionType: VisionType;
  imageToken: number;
  /** Which states of the tower are read, beside each other: 0 before the first layer, `vision.layers` after the last. */
  featureLayers: number[];
  /** Whether the first token's feature, which is CLIP's class token, is among them. */
  keepsFirst: boolean;
  projectorAct: ActivationName;
  projectorBias: boolean;
}

const layer = z.int().min(-MAX_LAYERS).max(MAX_LAYERS);
const keysOfConfig = z.object({
  vision_config: z.record(z.string(), z.unknown()).nullish(),
  image_token_index: z.int().min(0).max(MAX_VOCAB).nullish(),
  image_token_id: z.int().min(0).max(MAX_VOCAB).nullish(),
  vision_feature_layer: z.union([layer, z.array(layer).min(1).max(MAX_LAYERS)]).default(-2),
  vision_feature_select_strategy: z.enum(["default", "full"]).default("default"),
  projector_hidden_act: z.string().default("gelu"),
  multimodal_projector_bias: z.boolean().default(true),
});

/** The vision_config of a config that has none. */
const absentVision = {
  hidden_size: 1024,
  intermediate_size: 4096,
  num_hidden_layers: 24,
  num_attention_heads: 16,
  image_size: 336,
  patch_size: 14,
};

const tower = "model.vision_tower";
const projector = "model.multi_modal_projector";

/** A vision tower: its config, its tokens, and its forward pass. */
interface Tower {
  config(json: object, file: string): VisionConfig;
  tokens(c: VisionConfig): number;
  forward: typeof clipVision;
}

const towers = {
  clip_vision_model: {
    config: clipVisionConfig,
    tokens: (c) => patchCount(c) + 1,
    forward: clipVision,
  },
  siglip_vision_model: {
    config(json, file) {
      onlyValue({ vision_use_head: true, ...json }, `${file}: vision_config`, "vision_use_head", false);
      return siglipVisionConfig(json, file);
    },
    tokens: patchCount,
    forward: siglipVision,
  },
} satisfies Record<string, Tower>;
type VisionType = keyof typeof towers;

/** Features that an image has. */
const featuresOf = (c: LlavaConfig): number => towers[c.visionType].tokens(c.vision) - (c.keepsFirst ? 0 : 1);

export const llava: Family<LlavaConfig> = {
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const visionType = (keys.vision_config?.["model_type"] ?? "clip_vision_model") as VisionType;
    if (!Object.hasOwn(towers, visionType)) {
      throw unsupported(file, "vision_config.model_type", "a llava around this vision model is not supported", {
        expected: Object.keys(towers).join(", "),
        got: shownValue(visionType),
      });
    }
    const vision = towers[visionType].config(keys.vision_config ?? absentVision, file);
    const featureLayers = [keys.vision_feature_layer].flat().map((at) => {
      const state = at < 0 ? vision.layers + 1 + at : at;
      if (state >= 0 && state <= vision.layers) return state;
      throw contradiction(file, "vision_feature_layer", `a state of ${vision.layers} layers`, at);
    });
    const tied = (json as { text_config?: { tie_word_embeddings?: unknown } }).text_config?.tie_word_embeddings === true;
    const whole = tied ? { ...(json as object), tie_word_embeddings: true } : json;
    return {
      ...textModel(whole, file, { modelType: "llava", root: "model.language_model", usual: "llama" }),
      vision,
      visionType,
      imageToken: keys.image_token_index ?? keys.image_token_id ?? 32000,
      featureLayers,
      keepsFirst: keys.vision_feature_select_strategy === "full",
      projectorAct: activationOf(keys.projector_hidden_act, "projector_hidden_act", file),
      projectorBias: keys.multimodal_projector_bias,
    };
  },
  forward: textForward,
  vision: {
    attends: false,
    features: (c) => ({ perImage: featuresOf(c), width: c.hiddenSize }),
    pixels: (c) => ({ pixelValues: pixelInput(c.vision, "images") }),
    encode(c, { pixelValues }) {
      const [images] = pixelValues!.shape as [Dim];
      const { states, tokens, normed } = towers[c.visionType].forward(c.vision, pixelValues!, tower);
      const read = c.featureLayers.map((at) => {
        const all = reshape(states[at]!, [images, tokens, c.vision.hiddenSize]);
        const kept = c.keepsFirst ? all : slice(all, 1, 1, tokens);
        return reshape(kept, [mulDims(images, featuresOf(c)), c.vision.hiddenSize]);
      });
      const wide = projection(concat(read, 1), `${projector}.linear_1`, c.hiddenSize, c.projectorBias);
      const features = projection(activations[c.projectorAct](wide), `${projector}.linear_2`, c.hiddenSize, c.projectorBias);
      return { features, unread: [normed] };
    },
    feeds: (c, tokens, images) => placedFeeds(tokens, images, c.vision, { imageToken: c.imageToken, perImage: featuresOf(c) }),
    text(c, tokenizer) {
      const image = imageTokenOf(tokenizer, c.imageToken);
      return { ...image, written: () => image.token.repeat(featuresOf(c)) };
    },
  },
  olderNames: [
    // Transformers 4.52 to 4.57
    (name) => name.replace(/^model\.vision_tower\./, "model.vision_tower.vision_model."),
    // before, and the hub's checkpoints
    (name) =>
      name
        .replace(/^lm_head\b/, "language_model.lm_head")
        .replace(/^model\.language_model\./, "language_model.model.")
        .replace(/^model\.vision_tower\./, "vision_tower.vision_model.")
        .replace(/^model\.multi_modal_projector\./, "multi_modal_projector."),
  ],
};
