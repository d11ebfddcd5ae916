// The pieces decoder families share: their inputs, the layer loop, norms, projections, attention, the gated MLP.
import { type Dim, mulDims } from "../../graph/dims.ts";
import { apply1, rewrite, type Value } from "../../graph/graph.ts";
import { attention, rotary } from "../../graph/ops/attention.ts";
import { add, mul } from "../../graph/ops/elementwise.ts";
import { embedding } from "../../graph/ops/indexing.ts";
import { input, weight } from "../../graph/ops/leaves.ts";
import { linear } from "../../graph/ops/linear.ts";
import { layerNorm, rmsNorm } from "../../graph/ops/normalization.ts";
import { concat, reshape, slice, transpose } from "../../graph/ops/shape.ts";
import type { DecoderConfig, LayerConfig } from "../config/config.ts";
import type { LlamaConfig } from "../config/llama-config.ts";
import type { RopeConfig } from "../config/rope-config.ts";
import { embeddingOfTwo, type ImageInputs, placeRows } from "../images.ts";
import { activations } from "./activations.ts";
import { additiveMask, rotaryTables } from "./positions.ts";

/** What a model reads. Decoding with a cache has `past` and `cachePositions`; training has `segmentIds`. */
export interface ModelInputs {
  /** int32 [batch, seq] */
  inputIds?: Value;
  /** int32 [batch, seq]: position of each token in its own sequence. */
  positionIds?: Value;
  /** int32 [batch, keys]: 1 where a key may be seen; keys is past+seq. */
  attentionMask?: Value;
  /** int32 [batch, seq]: which of two texts a token is of. */
  tokenTypeIds?: Value;
  /** float32 [batch, channels, height, width] */
  pixelValues?: Value;
  /** int32 [batch, seq]: tokens see only keys of their own segment. */
  segmentIds?: Value;
  /** int32 [seq]: index of each query among the keys, where it is not simply 0, 1, … */
  cachePositions?: Value;
  /** Cached keys and values of each layer, [batch, kvHeads, past, headDim]. */
  past?: readonly KeyValue[];
  /** Query blocks of the attention (graph/ops/attention.ts). */
  attentionBlocks?: number;
  /** What a family with images reads beside the tokens; none, and it reads text alone. */
  images?: ImageInputs;
}

/** What a decoder reads. */
export interface DecoderInputs extends ModelInputs {
  inputIds: Value;
  positionIds: Value;
  attentionMask: Value;
}

export interface KeyValue {
  key: Value;
  value: Value;
}

/** The output layer: logits = hidden · weightᵀ, weight [vocab, hidden]; then softcap · tanh(logits / softcap) if it has one. */
export interface OutputLayer {
  weight: Value;
  path: string;
  softcap?: number;
  /** A layer whose logits follow, for tokens that were added to the vocabulary (IDEFICS). */
  added?: Pick<OutputLayer, "weight" | "path">;
}

/** What a backbone computes; what no head reads is in no graph. */
export interface Backbone {
  /** After the last norm: [batch*seq, hidden]. */
  hidden?: Value;
  /** The state that stands for the whole input, where a family has one: [batch, hidden]. */
  pooled?: Value;
  /** Projections of images and of texts [batch, hidden], and the logarithm of what scales their cosines. */
  towers?: { image: Value; text: Value; logScale: Value };
  /** Of a decoder. */
  output?: OutputLayer;
  /** Keys and values of each layer including this call's, [batch, kvHeads, keys, headDim]. */
  present?: KeyValue[];
  /** What the model computes that no logit reads: its modules and weights belong to the model all the same. */
  unread?: Value[];
}

export interface DecoderOutputs extends Backbone {
  hidden: Value;
  output: OutputLayer;
  present: KeyValue[];
}

/** Inputs of these names, int32 [batch, seq] each. */
export const tokenInputs = <Name extends string>(...names: Name[]) =>
  Object.fromEntries(names.map((name) => [name, input(name, "int32", ["batch", "seq"])])) as Record<Name, Value>;

/** The inputs of a decoder without a cache, as training and scoring feed them. */
export const decoderInputs = () => tokenInputs("inputIds", "positionIds", "attentionMask", "segmentIds");

/** The inputs of a decoder with a cache of `past` keys a layer. */
export function cachedInputs(c: DecoderConfig): DecoderInputs & { past: KeyValue[] } {
  const cache = (name: string) => input(name, "float32", ["batch", c.kvHeads, "past", c.headDim]);
  return {
    ...tokenInputs("inputIds", "positionIds"),
    cachePositions: input("cachePositions", "int32", ["seq"]),
    attentionMask: input("attentionMask", "int32", ["batch", "past+seq"]),
    past: Array.from({ length: c.layers }, (_, i) => ({ key: cache(`pastKey.${i}`), value: cache(`pastValue.${i}`) })),
  };
}

/** What the layers of one forward pass share. */
export interface LayerContext {
  batch: Dim;
  seq: Dim;
  /** 0 where a query may see a key, very negative elsewhere: [batch, 1, seq, keys]; in a window if it is not null. */
  mask(window: number | null): Value;
  /** The angles' cosines and sines, [batch*seq, rotated dimensions / 2] each. */
  rotaryTables(rope: RopeConfig, headDim: number): { cosines: Value; sines: Value };
  past?: readonly KeyValue[];
  present: KeyValue[];
  blocks: number;
}

/** Where a family keeps what is around its layers. The norms and what `enter` does are its own. */
export interface Layout {
  embedding: string;
  /** Whether the embedding's row of the padding token is left untrained (torch's `padding_idx`). */
  hasPaddingRow?: boolean;
  layers: string;
  /** The output layer's module; the embedding's table if the config ties them. */
  head: string;
  /** From the embedded tokens to what the first layer reads, [batch*seq, hidden] both. */
  enter?: (embedded: Value) => Value;
  finalNorm: (x: Value) => Value;
  /** Cap of the logits. */
  softcap?: number;
  /** Tokens behind the first `c.vocabSize - tokens` have an embedding and an output layer of their own. */
  added?: { tokens: number; embedding: string; head: string };
}

/** One transformer layer: x [batch*seq, hidden] → the same shape; `at` is the layer's module path, `index` its place in the checkpoint. */
export type Layer = (x: Value, at: string, index: number, context: LayerContext) => Value;

/** Token embedding, image features in their places, the layers, the last norm, the output layer. */
export function decoder(c: DecoderConfig, inputs: DecoderInputs, layout: Layout, layer: Layer): DecoderOutputs {
  const [batch, seq] = inputs.inputIds.shape as [Dim, Dim];
  const { added } = layout;
  const table = weight(`${layout.embedding}.weight`, [c.vocabSize - (added?.tokens ?? 0), c.hiddenSize]);
  const addedTable = added && weight(`${added.embedding}.weight`, [added.tokens, c.hiddenSize]);
  const context: LayerContext = {
    batch,
    seq,
    mask: memoised((window) => additiveMask(inputs, window)),
    rotaryTables: memoised((rope, headDim) => rotaryTables(rope, headDim, inputs.positionIds)),
    past: inputs.past,
    present: [],
    blocks: inputs.attentionBlocks ?? 1,
  };
  const ids = reshape(inputs.inputIds, [mulDims(batch, seq)]);
  let x = added
    ? embeddingOfTwo(ids, [table, layout.embedding], [addedTable!, added.embedding])
    : embedding(ids, table, layout.embedding, layout.hasPaddingRow ? c.padId : null); // [batch*seq, hidden]
  if (inputs.images?.rows) x = placeRows(x, inputs.images.features, inputs.images.rows);
  if (layout.enter) x = layout.enter(x);
  for (let i = 0; i < c.layers; i++) x = layer(x, `${layout.layers}.${i}`, c.layerSources?.[i] ?? i, context);
  if (c.layerSources) x = withSources(x, context, layout.layers, c.layerSources);
  const output = (path: string, tied: Value) => ({
    weight: c.tieWordEmbeddings ? tied : weight(`${path}.weight`, tied.shape as number[]),
    path,
  });
  return {
    hidden: layout.finalNorm(x),
    output: {
      ...output(layout.head, table),
      softcap: layout.softcap,
      ...(added && { added: output(added.head, addedTable!) }),
    },
    present: context.present,
  };
}

/** The last layer's output, and keys and values, with the weights of layers that are used again shared: those of `sources`. */
function withSources(x: Value, context: LayerContext, layers: string, sources: readonly number[]): Value {
  const leaves = new Map<string, Value>();
  const place = new RegExp(`^${layers.replaceAll(".", "\\.")}\\.(\\d+)\\.`);
  const present = context.present.flatMap(({ key, value }, i) => [[`key.${i}`, key] as const, [`value.${i}`, value] as const]);
  const { outputs } = rewrite({ outputs: { x, ...Object.fromEntries(present) } }, ({ op, attributes }) => {
    if (op !== "weight" || !place.test(String(attributes["name"]))) return null;
    const name = String(attributes["name"]).replace(place, (_, index: string) => `${layers}.${sources[Number(index)]}.`);
    const leaf = leaves.get(name) ?? apply1(op, [], { ...attributes, name });
    leaves.set(name, leaf);
    return [leaf];
  });
  context.present = context.present.map((_, i) => ({ key: outputs[`key.${i}`]!, value: outputs[`value.${i}`]! }));
  return outputs["x"]!;
}

/** The layout of Llama and its kin. */
export function llamaLayout(c: LlamaConfig): Layout {
  const { root = "model" } = c;
  return {
    embedding: `${root}.embed_tokens`,
    hasPaddingRow: true,
    layers: `${root}.layers`,
    head: "lm_head",
    finalNorm: (x) => rms(x, `${root}.norm`, c.rmsNormEps),
  };
}

/** `make`, called once for each list of (plain) arguments. */
function memoised<Arguments extends unknown[], Result>(make: (...given: Arguments) => Result): (...given: Arguments) => Result {
  const made = new Map<string, Result>();
  return (...given) => {
    const key = JSON.stringify(given);
    if (!made.has(key)) made.set(key, make(...given));
    return made.get(key)!;
  };
}

/** RMSNorm over the last axis of x with the module's weight. */
export const rms = (x: Value, path: string, epsilon: number): Value =>
  rmsNorm(x, weight(`${path}.weight`, [Number(x.shape.at(-1))]), epsilon);

/** LayerNorm over the last axis of x with the module's weight and bias. */
export function layerNormed(x: Value, path: string, epsilon: number): Value {
  const part = (name: string) => weight(`${path}.${name}`, [Number(x.shape.at(-1))]);
  return layerNorm(x, part("weight"), part("bias"), epsilon);
}

/** A norm of each head by itself, x [n, heads·headDim] → the same shape. */
export function eachHead(norm: (x: Value) => Value, x: Value, headDim: number): Value {
  const [rows, width] = x.shape as [Dim, number];
  return reshape(norm(reshape(x, [mulDims(rows, width / headDim), headDim])), x.shape);
}

/** A frozen linear layer of the checkpoint: x [n, in] → [n, out]. */
export function projection(x: Value, path: string, out: number, bias = false): Value {
  const w = weight(`${path}.weight`, [out, Number(x.shape[1])]);
  return linear(x, w, path, bias ? weight(`${path}.bias`, [out]) : undefined);
}

/** A frozen table of the checkpoint, [rows, width]: int32 ids of any shape → [..., width]. `padding` is the row that stays untrained. */
export const lookup = (ids: Value, path: string, rows: number, width: number, padding: number | null = null): Value =>
  embedding(ids, weight(`${path}.weight`, [rows, width]), path, padding);

/** The MLP of layers without a gate, over its paths up and down: x [n, hidden] → the same shape. */
export function mlp(c: Omit<LayerConfig, "layers" | "heads" | "layerNormEps">, x: Value, up: string, down: string): Value {
  const wide = activations[c.activation](projection(x, up, c.intermediateSize, true)); // [n, intermediate]
  return projection(wide, down, c.hiddenSize, true);
}

/** Columns of x [n, width] in parts of these widths. */
export function split<Widths extends number[]>(x: Value, ...widths: Widths): { [Part in keyof Widths]: Value } {
  let start = 0;
  return widths.map((width) => {
    start += width;
    return slice(x, 1, start - width, start);
  }) as never;
}

/** Queries, keys and values that lie beside each other head by head, x [n, heads·3·headDim] → three of [n, heads·headDim]. */
export function splitByHead(x: Value, heads: number, headDim: number): [Value, Value, Value] {
  const byHead = reshape(x, [x.shape[0]!, heads, 3, headDim]);
  const part = (i: number) => reshape(slice(byHead, 2, i, i + 1), [x.shape[0]!, heads * headDim]);
  return [part(0), part(1), part(2)];
}

interface AttentionOptions {
  /** null, or absent: no rotary positions. */
  rope?: RopeConfig | null;
  window?: number | null;
  /** Factor of the scores (1 / √headDim). */
  scale?: number;
  /** Cap of the scores. */
  softcap?: number;
  /** Added to the scores of each head, [1, heads, 1, keys] (ALiBi); only where heads and kvHeads are the same. */
  bias?: (keys: Dim) => Value;
}

/**
 * Grouped-query attention (Ainslie et al. 2023) over this call's keys and the cached ones: q [batch*seq, heads·headDim],
 * k and v [batch*seq, kvHeads·headDim] → the shape of q. Query head h reads key head h / group.
 */
export function attend(
  { heads, kvHeads, headDim }: Pick<DecoderConfig, "heads" | "kvHeads" | "headDim">,
  [q, k, v]: [Value, Value, Value],
  context: LayerContext,
  { rope, window = null, scale = headDim ** -0.5, softcap, bias }: AttentionOptions = {},
): Value {
  const { batch, seq } = context;
  const group = heads / kvHeads;
  const rotated = (x: Value, count: number) => {
    if (!rope) return x;
    const { cosines, sines } = context.rotaryTables(rope, headDim);
    return rotary(reshape(x, [batch, seq, count * headDim]), cosines, sines, count);
  };
  const headsFirst = (x: Value) => transpose(reshape(x, [batch, seq, kvHeads, headDim]), [0, 2, 1, 3]);
  // [batch, kv, seq·group, dim]: the queries of one key head are rows beside each other
  const grouped = transpose(reshape(rotated(q, heads), [batch, seq, kvHeads, group, headDim]), [0, 2, 1, 3, 4]);
  const queries = reshape(grouped, [batch, kvHeads, mulDims(seq, group), headDim]);
  let key = headsFirst(rotated(k, kvHeads)); // [batch, kv, seq, dim]
  let value = headsFirst(v);
  const past = context.past?.[context.present.length];
  if (past) {
    key = concat([past.key, key], 2); // [batch, kv, past+seq, dim]
    value = concat([past.value, value], 2);
  }
  context.present.push({ key, value });
  const seen = context.mask(window);
  const mask = bias ? add(seen, bias(key.shape[2]!)) : seen;
  const blocks = past ? 1 : context.blocks;
  const mixed = attention(queries, key, value, mask, { scale, group, causal: !past, blocks, softcap });
  const byToken = transpose(reshape(mixed, [batch, kvHeads, seq, group, headDim]), [0, 2, 1, 3, 4]);
  return reshape(byToken, [mulDims(batch, seq), heads * headDim]);
}

export interface SelfAttentionOptions extends AttentionOptions {
  /** What becomes of the projected queries and keys before they are rotated; `path` is that of a norm beside q_proj. */
  normQuery?: (q: Value, path: string) => Value;
}

/** Llama's attention, from projection to projection: x [batch*seq, hidden] → the same shape. */
export function selfAttention(
  c: LlamaConfig,
  x: Value,
  at: string,
  index: number,
  context: LayerContext,
  { normQuery = (q) => q, ...options }: SelfAttentionOptions = {},
): Value {
  const q = normQuery(projection(x, `${at}.q_proj`, c.heads * c.headDim, c.attentionBias), `${at}.q_norm`);
  const k = normQuery(projection(x, `${at}.k_proj`, c.kvHeads * c.headDim, c.attentionBias), `${at}.k_norm`);
  const v = projection(x, `${at}.v_proj`, c.kvHeads * c.headDim, c.attentionBias);
  const mixed = attend(c, [q, k, v], context, { rope: c.rope, window: windowOf(c, index), ...options });
  return projection(mixed, `${at}.o_proj`, c.hiddenSize, c.attentionOutputBias);
}

/** The window of a layer; null if it sees all positions before. */
export const windowOf = (c: LlamaConfig, index: number): number | null =>
  c.layerTypes[index] === "sliding_attention" ? c.slidingWindow : null;

/** Gated MLP (Shazeer 2020), SwiGLU with silu: down(act(gate(x)) · up(x)). */
export function gatedMlp(c: LlamaConfig, x: Value, at: string, width = c.intermediateSize): Value {
  const gate = activations[c.hiddenAct](projection(x, `${at}.gate_proj`, width, c.mlpBias));
  const up = projection(x, `${at}.up_proj`, width, c.mlpBias);
  return projection(mul(gate, up), `${at}.down_proj`, c.hiddenSize, c.mlpBias);
}
