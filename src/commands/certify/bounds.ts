// What a merged model has to keep: the bounds of a certificate.
import type { Difference } from "./behaviour.ts";
import type { WeightReport } from "./weights.ts";

/** The largest difference of an output in float32, for outputs up to `FLOAT_SIZE`; in proportion beyond. */
const FLOAT_ERROR = 1e-4;
const FLOAT_SIZE = 32;
/** In 16 bits: the share of what the adapter itself changes, and at least so much; in nats for logits, of the largest element for others. */
const SIXTEEN_SHARE = 0.1;
const SIXTEEN_LEAST = 1e-3;
/** In 16 bits: how often the most probable token has to be the same. */
const SIXTEEN_AGREEMENT = 0.9;

export interface Bound {
  what: string;
  limit: number;
  found: number;
  holds: boolean;
}

const atMost = (what: string, found: number, limit: number): Bound => ({ what, limit, found, holds: found <= limit });
const atLeast = (what: string, found: number, limit: number): Bound => ({ what, limit, found, holds: found >= limit });

/** The bounds on weights and outputs. `effect` is how far the base alone is from the base with its adapter. */
export function boundsOf(weights: WeightReport, outputs: readonly Difference[], effect: readonly Difference[] | null): Bound[] {
  const isExact = weights.merged.every(({ dtype }) => dtype === "float32" || dtype === "float64");
  const ofOutputs = outputs.flatMap(({ output, size, largest, mean, divergence, agreement }) => {
    if (isExact) return [atMost(`largest difference of ${output}`, largest, FLOAT_ERROR * Math.max(1, size / FLOAT_SIZE))];
    const change = effect?.find((one) => one.output === output);
    if (divergence && agreement !== undefined) {
      const limit = Math.max(SIXTEEN_LEAST, SIXTEEN_SHARE * (change?.divergence?.mean ?? 0));
      return [
        atMost("mean divergence in nats", divergence.mean, limit),
        atLeast("share of tokens whose most probable successor is the same", agreement, SIXTEEN_AGREEMENT),
      ];
    }
    return [atMost(`mean difference of ${output}`, mean, Math.max(SIXTEEN_LEAST * size, SIXTEEN_SHARE * (change?.mean ?? 0)))];
  });
  return [atMost("weights that are not as they should be", weights.problems.length, 0), ...ofOutputs];
}
