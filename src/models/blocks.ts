// The pieces decoder families share: masks, rotary tables, grouped attention, gated MLP, the layer loop, the output layer.
import { type Dim, mulDims } from "../graph/dims.ts";
import type { Value } from "../graph/graph.ts";
import { attention, rotary } from "../graph/ops/attention.ts";
import { add, and, cast, cos, equal, less, mul, silu, sin, where } from "../graph/ops/elementwise.ts";
import { embedding } from "../graph/ops/indexing.ts";
import { constant, input, iota, weight } from "../graph/ops/leaves.ts";
import { linear } from "../graph/ops/linear.ts";
import { rmsNorm } from "../graph/ops/normalization.ts";
import { broadcastTo, concat, reshape, transpose } from "../graph/ops/shape.ts";
import type { DecoderConfig, LayerType } from "./config.ts";
import { ropeFrequencies } from "./rope-config.ts";

/** What a decoder reads. Decoding with a cache has `past` and `cachePositions`; training has `segmentIds`. */
export interface DecoderInputs {
  /** int32 [batch, seq] */
  inputIds: Value;
  /** int32 [batch, seq]: position of each token in its own sequence. */
  positionIds: Value;
  /** int32 [batch, keys]: 1 where a key may be seen; keys is past+seq. */
  attentionMask: Value;
  /** int32 [batch, seq]: tokens see only keys of their own segment. */
  segmentIds?: Value;
  /** int32 [seq]: index of each query among the keys, where it is not simply 0, 1, … */
  cachePositions?: Value;
  /** Cached keys and values of each layer, [batch, kvHeads, past, headDim]. */
  past?: readonly KeyValue[];
  /** Query blocks of the attention (graph/ops/attention.ts). */
  attentionBlocks?: number;
}

export interface KeyValue {
  key: Value;
  value: Value;
}

export interface DecoderOutputs {
  /** After the last norm: [batch*seq, hidden]. */
  hidden: Value;
  /** The output layer: logits = hidden · weightᵀ, [vocab, hidden]. */
  head: { weight: Value; path: string };
  /** Keys and values of each layer including this call's, [batch, kvHeads, keys, headDim]. */
  present: KeyValue[];
}

/** A family's forward pass. */
export type Decoder = (config: DecoderConfig, inputs: DecoderInputs) => DecoderOutputs;

/** The inputs of a decoder without a cache, as training and scoring feed them. */
export function decoderInputs(): Required<Pick<DecoderInputs, "inputIds" | "positionIds" | "attentionMask" | "segmentIds">> {
  const rectangle = (name: string) => input(name, "int32", ["batch", "seq"]);
  return {
    inputIds: rectangle("inputIds"),
    positionIds: rectangle("positionIds"),
    attentionMask: rectangle("attentionMask"),
    segmentIds: rectangle("segmentIds"),
  };
}

/** The inputs of a decoder with a cache of `past` keys a layer. */
export function cachedInputs(c: DecoderConfig): DecoderInputs & { past: KeyValue[] } {
  const cache = (name: string) => input(name, "float32", ["batch", c.kvHeads, "past", c.headDim]);
  return {
    inputIds: input("inputIds", "int32", ["batch", "seq"]),
    positionIds: input("positionIds", "int32", ["batch", "seq"]),
    cachePositions: input("cachePositions", "int32", ["seq"]),
    attentionMask: input("attentionMask", "int32", ["batch", "past+seq"]),
    past: Array.from({ length: c.layers }, (_, i) => ({ key: cache(`pastKey.${i}`), value: cache(`pastValue.${i}`) })),
  };
}

/** What every layer of one forward pass reads beside its input. */
export interface LayerContext {
  batch: Dim;
  seq: Dim;
  /** [batch*seq, headDim/2] */
  cosines: Value;
  sines: Value;
  mask: Record<LayerType, Value>;
  past?: readonly KeyValue[];
  present: KeyValue[];
  blocks: number;
}

/** One transformer layer: hidden [batch*seq, hidden] → the same shape; `at` is the layer's module path. */
export type Layer = (c: DecoderConfig, x: Value, at: string, index: number, context: LayerContext) => Value;

/** Token embedding, the layers, the last norm, the output layer, under the module names of Llama and its kin. */
export function decoder(c: DecoderConfig, inputs: DecoderInputs, layer: Layer): DecoderOutputs {
  const [batch, seq] = inputs.inputIds.shape as [Dim, Dim];
  const tokens = mulDims(batch, seq);
  const table = weight("model.embed_tokens.weight", [c.vocabSize, c.hiddenSize]);
  const context: LayerContext = {
    batch,
    seq,
    ...rotaryTables(c, inputs.positionIds, tokens),
    mask: {
      full_attention: additiveMask(inputs, null, c.heads / c.kvHeads),
      sliding_attention: additiveMask(inputs, c.slidingWindow, c.heads / c.kvHeads),
    },
    past: inputs.past,
    present: [],
    blocks: inputs.attentionBlocks ?? 1,
  };
  let hidden = embedding(reshape(inputs.inputIds, [tokens]), table, "model.embed_tokens"); // [batch*seq, hidden]
  for (let i = 0; i < c.layers; i++) hidden = layer(c, hidden, `model.layers.${i}`, i, context);
  hidden = norm(c, hidden, "model.norm");
  const head = c.tieWordEmbeddings ? table : weight("lm_head.weight", [c.vocabSize, c.hiddenSize]);
  return { hidden, head: { weight: head, path: "lm_head" }, present: context.present };
}

/** RMSNorm over the last axis with the module's weight. */
export const norm = (c: DecoderConfig, x: Value, path: string): Value =>
  rmsNorm(x, weight(`${path}.weight`, [Number(x.shape.at(-1))]), c.rmsNormEps);

/** A frozen linear layer of the checkpoint: x [n, in] → [n, out]. */
export function projection(x: Value, path: string, out: number, bias = false): Value {
  const w = weight(`${path}.weight`, [out, Number(x.shape[1])]);
  return linear(x, w, path, bias ? weight(`${path}.bias`, [out]) : undefined);
}

/** A norm for each query and key head before the rotation, as Qwen3 has it: x [n, dim] → [n, dim]. */
export type HeadNorm = (x: Value, path: string) => Value;

/**
 * Grouped-query attention (Ainslie et al. 2023) with rotary positions: x [batch*seq, hidden] → the same shape.
 * Query head h reads key head h / group.
 */
export function selfAttention(
  c: DecoderConfig,
  x: Value,
  at: string,
  index: number,
  context: LayerContext,
  headNorm?: HeadNorm,
): Value {
  const { batch, seq, cosines, sines } = context;
  const { heads, kvHeads, headDim } = c;
  const group = heads / kvHeads;
  const rotated = (name: string, normName: string, count: number) => {
    let y = projection(x, `${at}.${name}`, count * headDim, c.attentionBias);
    if (headNorm) y = reshape(headNorm(reshape(y, [mulDims(batch, seq, count), headDim]), `${at}.${normName}`), y.shape);
    return rotary(reshape(y, [batch, seq, count * headDim]), cosines, sines, count);
  };
  const headsFirst = (y: Value) => transpose(reshape(y, [batch, seq, kvHeads, headDim]), [0, 2, 1, 3]);
  // [batch, kv, seq·group, dim]: the queries of one key head are rows beside each other
  const grouped = transpose(reshape(rotated("q_proj", "q_norm", heads), [batch, seq, kvHeads, group, headDim]), [0, 2, 1, 3, 4]);
  const q = reshape(grouped, [batch, kvHeads, mulDims(seq, group), headDim]);
  let key = headsFirst(rotated("k_proj", "k_norm", kvHeads)); // [batch, kv, seq, dim]
  let value = headsFirst(projection(x, `${at}.v_proj`, kvHeads * headDim, c.attentionBias));
  const past = context.past?.[index];
  if (past) {
    key = concat([past.key, key], 2); // [batch, kv, past+seq, dim]
    value = concat([past.value, value], 2);
  }
  context.present.push({ key, value });
  const mask = context.mask[c.layerTypes[index]!];
  const mixed = attention(q, key, value, mask, {
    scale: headDim ** -0.5,
    group,
    causal: !past,
    blocks: past ? 1 : context.blocks,
  });
  const byToken = transpose(reshape(mixed, [batch, kvHeads, seq, group, headDim]), [0, 2, 1, 3, 4]);
  const joined = reshape(byToken, [mulDims(batch, seq), heads * headDim]);
  return projection(joined, `${at}.o_proj`, c.hiddenSize, c.attentionOutputBias);
}

/** SwiGLU (Shazeer 2020): down(silu(gate(x)) · up(x)). */
export function gatedMlp(c: DecoderConfig, x: Value, at: string): Value {
  const gate = silu(projection(x, `${at}.gate_proj`, c.intermediateSize, c.mlpBias));
  const up = projection(x, `${at}.up_proj`, c.intermediateSize, c.mlpBias);
  return projection(mul(gate, up), `${at}.down_proj`, c.hiddenSize, c.mlpBias);
}

/** Cosines and sines of position · frequency, [tokens, headDim/2] each. */
function rotaryTables(c: DecoderConfig, positionIds: Value, tokens: Dim): { cosines: Value; sines: Value } {
  const frequencies = ropeFrequencies(c.rope, c.headDim);
  const positions = cast(reshape(positionIds, [tokens, 1]), "float32");
  const angles = mul(positions, constant("float32", [1, frequencies.length], [...frequencies]));
  return { cosines: cos(angles), sines: sin(angles) };
}

/** The most negative float32, Transformers' mask value: a row with nothing to see becomes uniform instead of NaN. */
const HIDDEN = -3.4028234663852886e38;

/**
 * 0 where query i may see key j and HIDDEN elsewhere: causal, not padding, same segment, in the window. [batch, 1,
 * seq·group, keys], each query's row once for every head of its group.
 */
function additiveMask(
  { inputIds, attentionMask, segmentIds, cachePositions }: DecoderInputs,
  window: number | null,
  group: number,
): Value {
  const [batch, seq] = inputIds.shape as [Dim, Dim];
  const keys = attentionMask.shape[1]!;
  const int = (n: number) => constant("int32", [], [n]);
  const i = reshape(cachePositions ?? iota(seq), [1, seq, 1]);
  const j = reshape(iota(keys), [1, 1, keys]);
  let allowed = and(less(j, add(i, int(1))), less(int(0), reshape(attentionMask, [batch, 1, keys])));
  if (window !== null) allowed = and(allowed, less(i, add(j, int(window))));
  if (segmentIds) allowed = and(allowed, equal(reshape(segmentIds, [batch, seq, 1]), reshape(segmentIds, [batch, 1, seq])));
  const mask = where(allowed, constant("float32", [], [0]), constant("float32", [], [HIDDEN])); // [batch, seq, keys]
  const repeated = broadcastTo(reshape(mask, [batch, 1, seq, 1, keys]), [batch, 1, seq, group, keys]);
  return reshape(repeated, [batch, 1, mulDims(seq, group), keys]);
}
