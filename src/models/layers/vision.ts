// From pixels to vectors: patches as tokens (Dosovitskiy et al. 2021), and the towers of CLIP and SigLIP, which vision-language models share.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add } from "../../graph/ops/elementwise.ts";
import { input, iota, weight } from "../../graph/ops/leaves.ts";
import { linear } from "../../graph/ops/linear.ts";
import { broadcastTo, concat, reshape, slice, transpose } from "../../graph/ops/shape.ts";
import { contradiction, type LayerConfig, layerConfig, layerKeys } from "../config/config.ts";
import { count, readJson } from "../config/schema.ts";
import { layerNormed, lookup } from "./blocks.ts";
import { firstTokens, noMask, paddingMask, towerStates } from "./encoder.ts";

/** Upper limits of what a config may ask for: an edge of an image in pixels, and its colours. */
export const MAX_IMAGE_SIZE = 2 ** 14;
const MAX_CHANNELS = 64;

/** How an image becomes tokens. Sizes are [height, width] in pixels. */
export interface PatchConfig {
  imageSize: [number, number];
  patchSize: [number, number];
  channels: number;
}

export interface VisionConfig extends PatchConfig, LayerConfig {}

/** A length of both edges, or [height, width]. */
const edges = z
  .union([count(MAX_IMAGE_SIZE), z.tuple([count(MAX_IMAGE_SIZE), count(MAX_IMAGE_SIZE)])])
  .transform((size): [number, number] => (typeof size === "number" ? [size, size] : size));

/** The keys of a config that determine how an image becomes tokens. */
export const patchKeys = (image: number, patch: number) => ({
  image_size: edges.default([image, image]),
  patch_size: edges.default([patch, patch]),
  num_channels: count(MAX_CHANNELS).default(3),
});

/** `at` is the path of these keys inside the file. */
export function patchConfig(keys: z.output<z.ZodObject<ReturnType<typeof patchKeys>>>, file: string, at = ""): PatchConfig {
  const { image_size: imageSize, patch_size: patchSize, num_channels: channels } = keys;
  if (patchSize[0] <= imageSize[0] && patchSize[1] <= imageSize[1]) return { imageSize, patchSize, channels };
  throw contradiction(file, `${at}patch_size`, `at most image_size ${imageSize.join(" × ")}`, patchSize);
}

const keysOfVision = z.object({
  ...layerKeys({ hiddenSize: 768, layers: 12, heads: 12, intermediateSize: 3072, activation: "quick_gelu", layerNormEps: 1e-5 }),
  ...patchKeys(224, 32),
});

/** A `vision_config` of CLIP's kind, with Transformers' defaults. */
export function clipVisionConfig(json: unknown, file: string, at = "vision_config"): VisionConfig {
  const keys = readJson(keysOfVision, json, file, at);
  return { ...patchConfig(keys, file, `${at}.`), ...layerConfig(keys, file, `${at}.`) };
}

/** The images of a batch as a model reads them: float32 [batch, channels, height, width], normalised by its processor. */
export const pixelInput = ({ channels, imageSize }: PatchConfig, batch: Dim = "batch"): Value =>
  input("pixelValues", "float32", [batch, channels, ...imageSize]);

/** Patches down and across; what is left at the lower and right edge belongs to none. */
const patchGrid = ({ imageSize, patchSize }: PatchConfig): [number, number] => [
  Math.floor(imageSize[0] / patchSize[0]),
  Math.floor(imageSize[1] / patchSize[1]),
];

/** Number of patches of an image. */
export const patchCount = (c: PatchConfig): number => patchGrid(c)[0] * patchGrid(c)[1];

/**
 * The convolution at `path`, whose step is its kernel, as a product: pixels [batch, channels, height, width] → [batch*patches, hidden], row
 * by row of the image.
 */
export function embedPatches(pixels: Value, path: string, hasBias: boolean, c: PatchConfig & { hiddenSize: number }): Value {
  const [batch, channels] = pixels.shape as [Dim, number];
  const [down, across] = patchGrid(c);
  const [tall, wide] = c.patchSize;
  const whole = slice(slice(pixels, 2, 0, down * tall), 3, 0, across * wide);
  const cut = transpose(reshape(whole, [batch, channels, down, tall, across, wide]), [0, 2, 4, 1, 3, 5]);
  const size = channels * tall * wide;
  const rows = reshape(cut, [mulDims(batch, down * across), size]);
  const kernel = weight(`${path}.weight`, [c.hiddenSize, channels, tall, wide]);
  const bias = hasBias ? weight(`${path}.bias`, [c.hiddenSize]) : undefined;
  return linear(rows, reshape(kernel, [c.hiddenSize, size]), path, bias, { kernel: [channels, tall, wide] });
}

/** Puts a class token [hidden] before the patches of each image, [batch*n, hidden] → [batch*(n+1), hidden], and adds positions [n+1, hidden]. */
export function withClassToken(patches: Value, classToken: Value, positions: Value, batch: Dim): Value {
  const [tokens, hidden] = positions.shape as [number, number];
  const first = broadcastTo(reshape(classToken, [1, 1, hidden]), [batch, 1, hidden]);
  const all = concat([first, reshape(patches, [batch, tokens - 1, hidden])], 1);
  return reshape(add(all, positions), [mulDims(batch, tokens), hidden]);
}

export interface VisionOutputs {
  /** CLIP's class token, then the patches, before the first layer and after each: [batch*tokens, hidden]. */
  states: Value[];
  tokens: number;
  /** After the last norm: CLIP's class token [batch, hidden], SigLIP's patches [batch*tokens, hidden]. */
  normed: Value;
}

/** CLIP's vision tower over pixels [batch, channels, height, width]; `at` is its module path. */
export function clipVision(c: VisionConfig, pixels: Value, at: string): VisionOutputs {
  const batch = pixels.shape[0]!;
  const tokens = patchCount(c) + 1;
  const classToken = weight(`${at}.embeddings.class_embedding`, [c.hiddenSize]);
  const positions = weight(`${at}.embeddings.position_embedding.weight`, [tokens, c.hiddenSize]);
  const patches = embedPatches(pixels, `${at}.embeddings.patch_embedding`, false, c);
  const embedded = withClassToken(patches, classToken, positions, batch);
  const norm = (x: Value, name: string) => layerNormed(x, `${at}.${name}`, c.layerNormEps);
  const context = { heads: c.heads, mask: noMask(batch, tokens) };
  const states = towerStates(c, norm(embedded, "pre_layrnorm"), at, context); // spelled so in every checkpoint
  return { states, tokens, normed: norm(firstTokens(states.at(-1)!, batch, tokens), "post_layernorm") };
}

/** A vision_config of SigLIP's kind (Zhai et al. 2023). */
export const siglipVisionConfig = (json: object, file: string, at?: string): VisionConfig =>
  clipVisionConfig({ patch_size: 16, hidden_act: "gelu_pytorch_tanh", layer_norm_eps: 1e-6, ...json }, file, at);

/**
 * SigLIP's tower: CLIP's without a class token and the first norm. Where images are not whole, `places` has the position of each patch
 * and whether it is seen, int32 [batch, patches] each.
 */
export function siglipVision(
  c: VisionConfig,
  pixels: Value,
  at: string,
  places?: { positions: Value; seen: Value },
): VisionOutputs {
  const batch = pixels.shape[0]!;
  const tokens = patchCount(c);
  const embedded = embedPatches(pixels, `${at}.embeddings.patch_embedding`, true, c);
  const positions = lookup(places?.positions ?? iota(tokens), `${at}.embeddings.position_embedding`, tokens, c.hiddenSize);
  const placed = add(reshape(embedded, [batch, tokens, c.hiddenSize]), positions);
  const mask = places ? paddingMask(places.seen) : noMask(batch, tokens);
  const states = towerStates(c, reshape(placed, embedded.shape), at, { heads: c.heads, mask });
  return { states, tokens, normed: layerNormed(states.at(-1)!, `${at}.post_layernorm`, c.layerNormEps) };
}
