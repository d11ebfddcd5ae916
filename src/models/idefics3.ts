// Idefics3 (Laurençon et al. 2024) and SmolVLM: SigLIP's features, a square of neighbours beside each other, in the place of image tokens.
import { z } from "zod";
import { type Dim, mulDims } from "../graph/dims.ts";
import type { Value } from "../graph/graph.ts";
import { add } from "../graph/ops/elementwise.ts";
import { embedding } from "../graph/ops/indexing.ts";
import { input, weight } from "../graph/ops/leaves.ts";
import { reshape, transpose } from "../graph/ops/shape.ts";
import { layerNormed, projection } from "./blocks.ts";
import { contradiction } from "./config.ts";
import { type EncoderContext, paddingMask, towerLayer } from "./encoder.ts";
import type { Family } from "./family.ts";
import { gridFeeds } from "./image-feeds.ts";
import { count, MAX_HIDDEN, MAX_VOCAB, readJson } from "./schema.ts";
import { textForward, textModel, type WithText } from "./text-model.ts";
import { clipVisionConfig, embedPatches, patchCount, pixelInput, type VisionConfig } from "./vision.ts";

interface Idefics3Config extends WithText {
  vision: VisionConfig;
  imageToken: number;
  /** Edge of the squares of patches that become one feature. */
  scale: number;
}

const keysOfConfig = z.object({
  model_type: z.string(),
  vision_config: z.record(z.string(), z.unknown()).nullish(),
  image_token_id: z.int().min(0).max(MAX_VOCAB).default(128257),
  scale_factor: count(MAX_HIDDEN).default(2),
});

const visionDefaults = {
  hidden_size: 1152,
  num_attention_heads: 16,
  hidden_act: "gelu_pytorch_tanh",
  layer_norm_eps: 1e-6,
};

const tower = "model.vision_model";

/** Patches down and across, which are as many. */
const edgeOf = (c: VisionConfig): number => Math.sqrt(patchCount(c));
const featuresOf = (c: Idefics3Config): number => (edgeOf(c.vision) / c.scale) ** 2;

export const idefics3: Family<Idefics3Config> = {
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const vision = clipVisionConfig({ ...visionDefaults, ...keys.vision_config }, file);
    const edge = edgeOf(vision);
    if (edge % keys.scale_factor !== 0) {
      throw contradiction(file, "scale_factor", `a divisor of the ${edge} patches along an edge`, keys.scale_factor);
    }
    return {
      ...textModel(json, file, keys.model_type, "model.text_model", { rms_norm_eps: 1e-5 }),
      vision,
      imageToken: keys.image_token_id,
      scale: keys.scale_factor,
    };
  },
  forward: textForward,
  vision: {
    attends: false,
    features: (c) => ({ perImage: featuresOf(c), width: c.hiddenSize }),
    pixels({ vision }) {
      const patches = (name: string) => input(name, "int32", ["images", patchCount(vision)]);
      // of each patch, its row among the position embeddings, and 1 unless it is padding
      const places = { patchPositions: patches("patchPositions"), patchMask: patches("patchMask") };
      return { pixelValues: pixelInput(vision, "images"), ...places };
    },
    encode(c, { pixelValues, patchPositions, patchMask }) {
      const { hiddenSize, channels, patchSize, heads, layers, layerNormEps } = c.vision;
      const [images, patches] = patchMask!.shape as [Dim, number];
      const part = (name: string, shape: number[]) => weight(`${tower}.embeddings.${name}`, shape);
      const kernel = part("patch_embedding.weight", [hiddenSize, channels, ...patchSize]);
      const embedded = add(embedPatches(pixelValues!, kernel, c.vision), part("patch_embedding.bias", [hiddenSize]));
      const ids = reshape(patchPositions!, [mulDims(images, patches)]);
      const table = part("position_embedding.weight", [patches, hiddenSize]);
      let x = add(embedded, embedding(ids, table, `${tower}.embeddings.position_embedding`));
      const context: EncoderContext = { batch: images, seq: patches, heads, mask: paddingMask(patchMask!) };
      for (let i = 0; i < layers; i++) x = towerLayer(c.vision, x, `${tower}.encoder.layers.${i}`, context);
      const squares = besideEachOther(layerNormed(x, `${tower}.post_layernorm`, layerNormEps), images, edgeOf(c.vision), c.scale);
      return { features: projection(squares, "model.connector.modality_projection.proj", c.hiddenSize) };
    },
    feeds: (c, tokens, images) => gridFeeds(tokens, images, c.vision, { imageToken: c.imageToken, perImage: featuresOf(c) }),
  },
};

/** The patches of each square of `scale` × `scale` in one row ("pixel shuffle"): x [images*edge², n] → [images*(edge/scale)², n·scale²]. */
function besideEachOther(x: Value, images: Dim, edge: number, scale: number): Value {
  const [width, few] = [Number(x.shape[1]), edge / scale];
  const across = transpose(reshape(x, [images, edge, few, width * scale]), [0, 2, 1, 3]); // [images, few, edge, width·scale]
  const down = transpose(reshape(across, [images, few, few, width * scale * scale]), [0, 2, 1, 3]);
  return reshape(down, [mulDims(images, few * few), width * scale * scale]);
}
