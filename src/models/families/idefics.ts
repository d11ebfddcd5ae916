// IDEFICS (Laurençon et al. 2023), the open Flamingo (Alayrac et al. 2022): Llama whose layers are preceded by gated attention
// to images, which a perceiver resampler brings to a few latents each.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add, cast, less, mul, tanh, where } from "../../graph/ops/elementwise.ts";
import { constant, input, scalar, weight } from "../../graph/ops/leaves.ts";
import { reduceMax } from "../../graph/ops/reduction.ts";
import { broadcastTo, concat, reshape } from "../../graph/ops/shape.ts";
import { contradiction } from "../config/config.ts";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import { MAX_VOCAB, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { lastImages, noImageToken, seenFeeds } from "../image-feeds.ts";
import type { ImageInputs } from "../images.ts";
import { activations } from "../layers/activations.ts";
import { decoder, eachHead, gatedMlp, layerNormed, llamaLayout, projection, rms, selfAttention } from "../layers/blocks.ts";
import { mixHeads, noMask } from "../layers/encoder.ts";
import { HIDDEN } from "../layers/positions.ts";
import { clipVision, clipVisionConfig, patchCount, pixelInput, type VisionConfig } from "../layers/vision.ts";

interface IdeficsConfig extends LlamaConfig {
  vision: VisionConfig;
  /** null: text attends to all patches. */
  resampler: Resampler | null;
  /** Tokens behind the vocabulary of the language model, with tables of their own. */
  addedTokens: number;
  /** Each how many layers one attends to images before it. */
  interval: number;
  crossNorms: boolean;
  /** Whether a gate is a vector over the hidden dimensions. */
  vectorGates: boolean;
}

const keysOfConfig = z.object({
  additional_vocab_size: z.int().min(0).max(MAX_VOCAB).default(0),
  cross_layer_interval: sizes.layers.default(1),
  qk_layer_norms: z.boolean().default(false),
  alpha_type: z.enum(["float", "vector"]).default("float"),
  use_resampler: z.boolean().default(false),
  vision_config: z.object({ embed_dim: z.unknown().optional() }).loose().nullish(),
  perceiver_config: z.preprocess(
    (given) => given ?? {},
    z
      .object({
        resampler_n_latents: sizes.vocab.default(64),
        resampler_depth: sizes.layers.default(6),
        resampler_n_heads: sizes.heads.default(16),
        resampler_head_dim: sizes.headDim.default(96),
        qk_layer_norms_perceiver: z.boolean().default(false),
      })
      .transform((keys) => ({
        depth: keys.resampler_depth,
        heads: keys.resampler_n_heads,
        headDim: keys.resampler_head_dim,
        latents: keys.resampler_n_latents,
        /** Whether queries and keys are normed, head by head. */
        norms: keys.qk_layer_norms_perceiver,
      })),
  ),
});

const visionDefaults = {
  intermediate_size: 5120,
  patch_size: 14,
  num_hidden_layers: 32,
  num_attention_heads: 16,
  hidden_act: "gelu",
};

type Resampler = z.output<typeof keysOfConfig>["perceiver_config"];

/** LayerNorm's epsilon in PyTorch, which the resampler keeps. */
const EPSILON = 1e-5;

/** What an image becomes for the text that attends to it. */
const featuresOf = (c: IdeficsConfig): number => c.resampler?.latents ?? patchCount(c.vision) + 1;

export const idefics: Family<IdeficsConfig> = {
  config(json, file) {
    const keys = readJson(keysOfConfig, json, file);
    const text = llamaConfig(json, file, "idefics", {
      vocabSize: 32000,
      intermediateSize: 11008,
      maxPositions: 2048,
      bosId: 1,
      eosId: 2,
      padId: 0,
    });
    const interval = keys.cross_layer_interval;
    if (text.layers % interval !== 0) {
      throw contradiction(file, "cross_layer_interval", `a divisor of num_hidden_layers ${text.layers}`, interval);
    }
    const { embed_dim: width, ...visionKeys } = keys.vision_config ?? {};
    const hidden = width ?? visionKeys["hidden_size"] ?? 768; // the model's own name for it comes first
    return {
      ...text,
      vocabSize: text.vocabSize + keys.additional_vocab_size,
      vision: clipVisionConfig({ ...visionDefaults, ...visionKeys, hidden_size: hidden }, file),
      resampler: keys.use_resampler ? keys.perceiver_config : null,
      addedTokens: keys.additional_vocab_size,
      interval,
      crossNorms: keys.qk_layer_norms,
      vectorGates: keys.alpha_type === "vector",
    };
  },
  forward(c, inputs) {
    const tables = { tokens: c.addedTokens, embedding: "model.embed_tokens.additional_embedding", head: "lm_head.additional_fc" };
    const layout = { ...llamaLayout(c), ...(c.addedTokens > 0 && { added: tables }) };
    const view = inputs.images && viewOf(c, inputs.images);
    return decoder(c, inputs, layout, (x, at, index, context) => {
      const before = index % c.interval === 0 ? crossLayer(c, x, `model.gated_cross_attn_layers.${index / c.interval}`, view) : x;
      const read = rms(before, `${at}.input_layernorm`, c.rmsNormEps);
      const h = add(before, selfAttention(c, read, `${at}.self_attn`, index, context));
      return add(h, gatedMlp(c, rms(h, `${at}.post_attention_layernorm`, c.rmsNormEps), `${at}.mlp`));
    });
  },
  vision: {
    attends: true,
    features: (c) => ({ perImage: featuresOf(c), width: c.vision.hiddenSize }),
    pixels(c) {
      const { shape } = pixelInput(c.vision);
      return { pixelValues: input("pixelValues", "float32", ["batch", "images", ...shape.slice(1)]) };
    },
    encode(c, { pixelValues }) {
      const [batch, perRow, ...image] = pixelValues!.shape as [Dim, Dim, ...number[]];
      const images = mulDims(batch, perRow);
      const pixels = reshape(pixelValues!, [images, ...image]);
      const { states, tokens, normed } = clipVision(c.vision, pixels, "model.vision_model");
      const last = states.at(-1)!;
      const features = c.resampler ? resampled(c.resampler, last, images, tokens) : last;
      const shape = [batch, mulDims(perRow, featuresOf(c)), c.vision.hiddenSize];
      return { features: reshape(features, shape), unread: [normed] };
    },
    feeds: (c, tokens, images) => seenFeeds(tokens, images, c.vision),
    text(_, tokenizer) {
      const token = tokenizer.namedToken("image_token") ?? "<image>";
      const id = tokenizer.tokenToId(token);
      if (id === undefined) throw noImageToken(token);
      const around = "<fake_token_around_image>";
      return {
        token,
        id,
        // neighbours have one between them
        written: (_grid, before, after) =>
          `${before.endsWith(around) ? "" : around}${token}${after.startsWith(around) ? "" : around}`,
        attended: (ids) => lastImages(ids, id, tokenizer.eosId),
      };
    },
  },
};

/** What every layer that attends to images reads. */
interface View {
  /** [batch*images*features, width] */
  features: Value;
  /** Additive, [batch, 1, seq, images*features]. */
  mask: Value;
  /** Whether a token sees an image at all: bool [batch*seq, 1]. */
  seesAny: Value;
}

function viewOf(c: IdeficsConfig, { features, seen }: ImageInputs): View {
  const [batch, seq, images] = seen!.shape as [Dim, Dim, Dim];
  const each = broadcastTo(reshape(seen!, [batch, seq, images, 1]), [batch, seq, images, featuresOf(c)]);
  const visible = less(constant("int32", [], [0]), reshape(each, [batch, 1, seq, mulDims(images, featuresOf(c))]));
  const most = reduceMax(cast(seen!, "float32"), [2]);
  return {
    features: reshape(features, [mulDims(batch, images, featuresOf(c)), c.vision.hiddenSize]),
    mask: where(visible, constant("float32", [], [0]), constant("float32", [], [HIDDEN])),
    seesAny: less(constant("float32", [], [0]), reshape(most, [mulDims(batch, seq), 1])),
  };
}

/** Attention to the images and an MLP, each through its gate tanh(α), which is closed at first: x [batch*seq, hidden] → the same shape. */
function crossLayer(c: IdeficsConfig, x: Value, at: string, view: View | undefined): Value {
  const gated = (y: Value, name: string) => {
    const gate = weight(`${at}.${name}`, c.vectorGates ? [1, 1, c.hiddenSize] : [1]);
    return mul(tanh(c.vectorGates ? reshape(gate, [c.hiddenSize]) : gate), y);
  };
  let h = x;
  if (view) {
    const attended = crossAttention(c, rms(x, `${at}.input_layernorm`, c.rmsNormEps), `${at}.cross_attn`, view);
    h = add(x, gated(where(view.seesAny, attended, scalar(0, x)), "alpha_cross_attn"));
  }
  const wide = gatedMlp(c, rms(h, `${at}.post_attention_layernorm`, c.rmsNormEps), `${at}.mlp`);
  return add(h, gated(wide, "alpha_dense"));
}

function crossAttention(c: IdeficsConfig, x: Value, at: string, { features, mask }: View): Value {
  const { heads, headDim } = c;
  const normed = (y: Value, name: string) =>
    c.crossNorms ? eachHead((head) => rms(head, `${at}.${name}`, c.rmsNormEps), y, headDim) : y;
  const q = normed(projection(x, `${at}.q_proj`, heads * headDim), "q_layer_norm");
  const k = normed(projection(features, `${at}.k_proj`, heads * headDim), "k_layer_norm");
  const v = projection(features, `${at}.v_proj`, heads * headDim);
  return projection(mixHeads(q, k, v, { heads, mask }), `${at}.o_proj`, c.hiddenSize);
}

/** The perceiver resampler: latents attend to an image and to themselves. states [images*tokens, width] → [images*latents, width]. */
function resampled(r: Resampler, states: Value, images: Dim, tokens: number): Value {
  const width = Number(states.shape[1]);
  const root = "model.perceiver_resampler";
  const norm = (x: Value, path: string) => layerNormed(x, path, EPSILON);
  const first = broadcastTo(weight(`${root}.latents`, [r.latents, width]), [images, r.latents, width]);
  let latents = reshape(first, [mulDims(images, r.latents), width]);
  const mask = noMask(images, r.latents, tokens + r.latents);
  for (let i = 0; i < r.depth; i++) {
    const at = `${root}.blocks.${i}.0`;
    const own = norm(latents, `${at}.latents_layer_norm`);
    const rows = (x: Value, length: number) => reshape(x, [images, length, width]);
    const both = concat([rows(norm(states, `${at}.context_layer_norm`), tokens), rows(own, r.latents)], 1);
    const all = reshape(both, [mulDims(images, tokens + r.latents), width]);
    const normed = (x: Value, name: string) => (r.norms ? eachHead((head) => norm(head, `${at}.${name}`), x, r.headDim) : x);
    const q = normed(projection(own, `${at}.q_proj`, r.heads * r.headDim), "q_layer_norm");
    const k = normed(projection(all, `${at}.k_proj`, r.heads * r.headDim), "k_layer_norm");
    const v = projection(all, `${at}.v_proj`, r.heads * r.headDim);
    latents = add(projection(mixHeads(q, k, v, { heads: r.heads, mask }), `${at}.output_proj`, width), latents);
    const mlp = `${root}.blocks.${i}.1`;
    const wide = activations.relu(projection(norm(latents, `${mlp}.ln`), `${mlp}.fc`, 4 * width));
    latents = add(projection(wide, `${mlp}.c_proj`, width), latents);
  }
  return norm(latents, `${root}.layer_norm`);
}
