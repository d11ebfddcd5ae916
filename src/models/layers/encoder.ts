// What encoders share: attention without rotary positions or a cache, the masks that go with it, and the layer of CLIP's towers.
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { attention } from "../../graph/ops/attention.ts";
import { add, equal, less, sub, where } from "../../graph/ops/elementwise.ts";
import { gatherRows, rowsWhere } from "../../graph/ops/indexing.ts";
import { constant, iota, scalar } from "../../graph/ops/leaves.ts";
import { reduceMax } from "../../graph/ops/reduction.ts";
import { broadcastTo, reshape, slice, transpose } from "../../graph/ops/shape.ts";
import type { LayerConfig } from "../config/config.ts";
import { layerNormed, mlp, projection } from "./blocks.ts";
import { HIDDEN } from "./positions.ts";

/** What the attention of every layer of an encoder shares. */
export interface EncoderContext {
  heads: number;
  /** Added to the scores: [batch, 1, rows, keys]. */
  mask: Value;
  /** Whether the mask hides what comes after a token. */
  causal?: boolean;
}

/**
 * Multi-head attention (Vaswani et al. 2017) over projected q [batch*rows, heads·headDim], k and v [batch*keys, heads·headDim] → the
 * shape of q.
 */
export function mixHeads(q: Value, k: Value, v: Value, { heads, mask, causal = false }: EncoderContext): Value {
  const [batch, , rows, keys] = mask.shape as [Dim, Dim, Dim, Dim];
  const headDim = Number(q.shape[1]) / heads;
  const byHead = (x: Value, length: Dim) => transpose(reshape(x, [batch, length, heads, headDim]), [0, 2, 1, 3]);
  const options = { scale: headDim ** -0.5, group: 1, causal, blocks: 1 };
  const mixed = attention(byHead(q, rows), byHead(k, keys), byHead(v, keys), mask, options); // [batch, heads, rows, headDim]
  return reshape(transpose(mixed, [0, 2, 1, 3]), q.shape);
}

/** The mask under which each token sees every other, or every one of `keys`: [batch, 1, seq, keys]. */
export const noMask = (batch: Dim, seq: Dim, keys = seq): Value =>
  broadcastTo(constant("float32", [], [0]), [batch, 1, seq, keys]);

/** The mask that hides padding: attentionMask int32 [batch, seq], 1 where a token is → [batch, 1, seq, seq]. */
export function paddingMask(attentionMask: Value): Value {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  const seen = less(constant("int32", [], [0]), reshape(attentionMask, [batch, 1, 1, seq]));
  const mask = where(seen, constant("float32", [], [0]), constant("float32", [], [HIDDEN]));
  return broadcastTo(mask, [batch, 1, seq, seq]);
}

/** The first token of each sequence: x [batch*seq, hidden] → [batch, hidden]. `seq` has to be a number. */
export function firstTokens(x: Value, batch: Dim, seq: number): Value {
  const width = Number(x.shape[1]);
  return reshape(slice(reshape(x, [batch, seq, width]), 1, 0, 1), [batch, width]);
}

/**
 * The token of each sequence at which `flags`, bool [batch, seq], is true; it must be so at exactly one: x [batch*seq, hidden]
 * → [batch, hidden].
 */
export function tokensWhere(x: Value, flags: Value): Value {
  const [batch, seq] = flags.shape as [Dim, Dim];
  return gatherRows(x, rowsWhere(reshape(flags, [mulDims(batch, seq), 1]), String(batch)));
}

/** The first place of each row at which `flags`, bool [batch, seq] of at most `most` places, is true; its first if none is: the same shape. */
export function firstWhere(flags: Value, most: number): Value {
  const places = iota(flags.shape[1]!);
  const earliness = sub(where(flags, scalar(most, places), scalar(0, places)), places); // different at each place of a row
  return equal(earliness, reduceMax(earliness, [1]));
}

/** What the layers of one of CLIP's towers read, [batch*seq, hidden], and the states after each, of the same shape. */
export function towerStates(c: LayerConfig, first: Value, at: string, context: EncoderContext): Value[] {
  const states = [first];
  for (let i = 0; i < c.layers; i++) states.push(towerLayer(c, states[i]!, `${at}.encoder.layers.${i}`, context));
  return states;
}

/** A layer of CLIP's towers, norms first (Radford et al. 2021): x [batch*seq, hidden] → the same shape. */
function towerLayer(c: LayerConfig, x: Value, at: string, context: EncoderContext): Value {
  const hidden = c.hiddenSize;
  const before = layerNormed(x, `${at}.layer_norm1`, c.layerNormEps);
  const part = (name: string) => projection(before, `${at}.self_attn.${name}`, hidden, true);
  const mixed = mixHeads(part("q_proj"), part("k_proj"), part("v_proj"), context);
  const h = add(x, projection(mixed, `${at}.self_attn.out_proj`, hidden, true));
  return add(h, mlp(c, layerNormed(h, `${at}.layer_norm2`, c.layerNormEps), `${at}.mlp.fc1`, `${at}.mlp.fc2`));
}
