// Idefics3 (Laurençon et al. 2024) and SmolVLM: SigLIP's features, a square of neighbours beside each other, in the place of image tokens.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { input } from "../../graph/ops/leaves.ts";
import { reshape, transpose } from "../../graph/ops/shape.ts";
import { contradiction } from "../config/config.ts";
import { MAX_VOCAB, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { gridFeeds, imageTokenOf } from "../image-feeds.ts";
import type { ImageGrid } from "../images.ts";
import { projection } from "../layers/blocks.ts";
import { patchCount, pixelInput, siglipVision, siglipVisionConfig, type VisionConfig } from "../layers/vision.ts";
import { textForward, textModel, type WithText } from "../text-model.ts";

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
  scale_factor: sizes.hidden.default(2),
});

const visionDefaults = { hidden_size: 1152, num_attention_heads: 16, patch_size: 32 };

const tower = "model.vision_model";

/** Patches down and across, which are as many. */
const edgeOf = (c: VisionConfig): number => Math.sqrt(patchCount(c));
const featuresOf = (c: Idefics3Config): number => (edgeOf(c.vision) / c.scale) ** 2;

export const idefics3: Family<Idefics3Config> = {
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const vision = siglipVisionConfig({ ...visionDefaults, ...keys.vision_config }, file);
    const edge = edgeOf(vision);
    if (edge % keys.scale_factor !== 0) {
      throw contradiction(file, "scale_factor", `a divisor of the ${edge} patches along an edge`, keys.scale_factor);
    }
    return {
      ...textModel(json, file, {
        modelType: keys.model_type,
        root: "model.text_model",
        usual: "llama",
        absent: { rms_norm_eps: 1e-5 },
      }),
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
      const [images] = pixelValues!.shape as [Dim];
      const { normed } = siglipVision(c.vision, pixelValues!, tower, { positions: patchPositions!, seen: patchMask! });
      const squares = besideEachOther(normed, images, edgeOf(c.vision), c.scale);
      return { features: projection(squares, "model.connector.modality_projection.proj", c.hiddenSize) };
    },
    feeds: (c, tokens, images) => gridFeeds(tokens, images, c.vision, { imageToken: c.imageToken, perImage: featuresOf(c) }),
    text(c, tokenizer) {
      const image = imageTokenOf(tokenizer, c.imageToken);
      const around = tokenizer.namedToken("fake_image_token") ?? "<fake_token_around_image>";
      const whole = `${around}${tokenizer.namedToken("global_image_token") ?? "<global-img>"}`;
      const features = image.token.repeat(featuresOf(c));
      return { ...image, written: (grid) => `${tiles(grid, around, features)}${whole}${features}${around}` };
    },
  },
};

/** The tiles of a split image, line by line, before the whole one. */
function tiles({ rows, columns }: ImageGrid, around: string, features: string): string {
  if (rows === 0 && columns === 0) return "";
  const line = (row: number) => counting(columns, (column) => `${around}<row_${row + 1}_col_${column + 1}>${features}`).join("");
  return `${counting(rows, (row) => `${line(row)}\n`).join("")}\n`;
}

const counting = (length: number, value: (i: number) => string): string[] => Array.from({ length }, (_, i) => value(i));

/** The patches of each square of `scale` × `scale` in one row ("pixel shuffle"): x [images*edge², n] → [images*(edge/scale)², n·scale²]. */
function besideEachOther(x: Value, images: Dim, edge: number, scale: number): Value {
  const [width, few] = [Number(x.shape[1]), edge / scale];
  const across = transpose(reshape(x, [images, edge, few, width * scale]), [0, 2, 1, 3]); // [images, few, edge, width·scale]
  const down = transpose(reshape(across, [images, few, few, width * scale * scale]), [0, 2, 1, 3]);
  return reshape(down, [mulDims(images, few * few), width * scale * scale]);
}
