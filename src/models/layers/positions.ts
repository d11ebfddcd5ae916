// What a decoder's attention knows of positions: the additive mask, rotary angles, linear biases.
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add, and, cast, cos, equal, less, mul, sin, where } from "../../graph/ops/elementwise.ts";
import { constant, iota } from "../../graph/ops/leaves.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type RopeConfig, ropeFrequencies } from "../config/rope-config.ts";
import type { DecoderInputs } from "./blocks.ts";

/** Cosines and sines of position · frequency, [batch*seq, rotated dimensions / 2] each. */
export function rotaryTables(rope: RopeConfig, headDim: number, positionIds: Value): { cosines: Value; sines: Value } {
  const frequencies = ropeFrequencies(rope, headDim);
  const positions = cast(reshape(positionIds, [mulDims(...positionIds.shape), 1]), "float32");
  const angles = mul(positions, constant("float32", [1, frequencies.length], [...frequencies]));
  if (!("attentionFactor" in rope)) return { cosines: cos(angles), sines: sin(angles) };
  const factor = constant("float32", [], [rope.attentionFactor]);
  return { cosines: mul(cos(angles), factor), sines: mul(sin(angles), factor) };
}

/** The most negative float32, Transformers' mask value: a row with nothing to see becomes uniform instead of NaN. */
export const HIDDEN = -3.4028234663852886e38;

/** 0 where query i may see key j and HIDDEN elsewhere: causal, not padding, same segment, in the window. [batch, 1, seq, keys] */
export function additiveMask(
  { inputIds, attentionMask, segmentIds, cachePositions }: Omit<DecoderInputs, "positionIds">,
  window: number | null,
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
  return reshape(mask, [batch, 1, seq, keys]);
}

/**
 * ALiBi (Press et al. 2022): slope · key position for each head, [1, heads, 1, keys]. Counting keys from where the row begins
 * adds the same to all scores of a query, which softmax does not see; so padding and a cache change nothing.
 */
export function alibi(heads: number, keys: Dim): Value {
  const slopes = constant("float32", [1, heads, 1, 1], alibiSlopes(heads));
  return mul(slopes, cast(reshape(iota(keys), [1, 1, 1, keys]), "float32"));
}

/** A geometric sequence; of other head counts than powers of two, the next power's odd terms fill up. */
function alibiSlopes(heads: number): number[] {
  const whole = 2 ** Math.floor(Math.log2(heads));
  const powers = (count: number, first: number, step: number) =>
    Array.from({ length: count }, (_, i) => 2 ** (-first * (1 + step * i)));
  return [...powers(whole, 8 / whole, 1), ...powers(heads - whole, 4 / whole, 2)];
}
