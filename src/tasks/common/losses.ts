// Pieces of losses, as graph values.
import type { Value } from "../../graph/graph.ts";
import { add, exp, less, log, neg, where } from "../../graph/ops/elementwise.ts";
import { scalar } from "../../graph/ops/leaves.ts";

/** log(1 + e^x), elementwise, without overflow: max(x, 0) + log(1 + e^-|x|). */
export function softplus(x: Value): Value {
  const zero = scalar(0, x);
  const isNegative = less(x, zero);
  const decay = exp(where(isNegative, x, neg(x))); // e^-|x|
  return add(where(isNegative, zero, x), log(add(decay, scalar(1, x))));
}

/** log σ(x) = -log(1 + e^-x), elementwise. */
export const logSigmoid = (x: Value): Value => neg(softplus(neg(x)));
