// ViT (Dosovitskiy et al. 2021). Names are those of Transformers 5; the hub has those of 4.
import { z } from "zod";
import type { Value } from "../../graph/graph.ts";
import { add } from "../../graph/ops/elementwise.ts";
import { weight } from "../../graph/ops/leaves.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type BackboneConfig, commonConfig, commonKeys, type LayerConfig, layerConfig, layerKeys } from "../config/config.ts";
import { MAX_VOCAB, readJson } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { layerNormed, type ModelInputs, mlp, projection } from "../layers/blocks.ts";
import { firstTokens, mixHeads, noMask } from "../layers/encoder.ts";
import {
  embedPatches,
  type PatchConfig,
  patchConfig,
  patchCount,
  patchKeys,
  pixelInput,
  withClassToken,
} from "../layers/vision.ts";

interface VitConfig extends BackboneConfig, PatchConfig, LayerConfig {
  /** Whether queries, keys and values have a bias. */
  qkvBias: boolean;
}

const keysOfConfig = z.object({
  ...layerKeys({ hiddenSize: 768, layers: 12, heads: 12, intermediateSize: 3072, activation: "gelu", layerNormEps: 1e-12 }),
  qkv_bias: z.boolean().default(true),
  ...patchKeys(224, 16),
  ...commonKeys(null, null, true),
});

export const vit: Family<VitConfig, ModelInputs> = {
  prefix: "vit",
  heads: { "image-classifier": { path: "classifier", bias: true } },
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const patches = patchConfig(keys, file);
    return {
      modelType: "vit",
      dtype: commonConfig(keys, MAX_VOCAB, file).dtype,
      padId: null,
      ...patches,
      maxPositions: patchCount(patches) + 1,
      vocabSize: 0,
      ...layerConfig(keys, file),
      qkvBias: keys.qkv_bias,
    };
  },
  inputs: (c) => ({ pixelValues: pixelInput(c) }),
  forward(c, { pixelValues }) {
    const batch = pixelValues!.shape[0]!;
    const tokens = patchCount(c) + 1;
    const norm = (x: Value, path: string) => layerNormed(x, path, c.layerNormEps);
    const context = { heads: c.heads, mask: noMask(batch, tokens) };
    let x = embeddings(c, pixelValues!); // [batch*tokens, hidden]
    for (let i = 0; i < c.layers; i++) {
      const at = `vit.layers.${i}`;
      const before = norm(x, `${at}.layernorm_before`);
      const part = (name: string) => projection(before, `${at}.attention.${name}`, c.hiddenSize, c.qkvBias);
      const mixed = mixHeads(part("q_proj"), part("k_proj"), part("v_proj"), context);
      const h = add(x, projection(mixed, `${at}.attention.o_proj`, c.hiddenSize, true));
      x = add(h, mlp(c, norm(h, `${at}.layernorm_after`), `${at}.mlp.fc1`, `${at}.mlp.fc2`));
    }
    const pooled = norm(firstTokens(x, batch, tokens), "vit.layernorm"); // a row's norm is its own: the others are not needed
    return { pooled };
  },
  olderNames: [
    (name) =>
      name
        .replace(/^vit\.layers\./, "vit.encoder.layer.")
        .replace(/\.attention\.o_proj\b/, ".attention.output.dense")
        .replace(/\.attention\.([qkv])_proj\b/, (_, which: string) => `.attention.attention.${olderPart[which]}`)
        .replace(/\.mlp\.fc1\b/, ".intermediate.dense")
        .replace(/\.mlp\.fc2\b/, ".output.dense"),
  ],
};

const olderPart: Record<string, string> = { q: "query", k: "key", v: "value" };

/** Pixels [batch, channels, height, width] → [batch*tokens, hidden]. */
function embeddings(c: VitConfig, pixels: Value): Value {
  const at = "vit.embeddings";
  const tokens = patchCount(c) + 1;
  const patches = embedPatches(pixels, `${at}.patch_embeddings.projection`, true, c);
  const classToken = weight(`${at}.cls_token`, [1, 1, c.hiddenSize]);
  const positions = weight(`${at}.position_embeddings`, [1, tokens, c.hiddenSize]);
  return withClassToken(patches, classToken, reshape(positions, [tokens, c.hiddenSize]), pixels.shape[0]!);
}
