// Reductions over axes; the reduced axes stay as 1 so that results broadcast back.
import { apply1, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, sub } from "./elementwise.ts";
import { scalar } from "./leaves.ts";
import { broadcastTo, reshape } from "./shape.ts";

/** Sum over `axes` (not negative); the reduced axes remain with length 1. */
export const reduceSum = (x: Value, axes: readonly number[]): Value => apply1("reduceSum", [x], { axes });
/** Sum of all elements: a scalar. */
export function sumOf(x: Value): Value {
  const axes = x.shape.map((_, axis) => axis);
  return reshape(reduceSum(x, axes), []);
}
/** Greatest element over `axes`; used to keep exponentials in range, and constant in the backward pass. */
export const reduceMax = (x: Value, axes: readonly number[]): Value => apply1("reduceMax", [x], { axes });
/** Softmax over the last axis. */
export const softmax = (x: Value): Value => apply1("softmax", [x]);
/** Mean over the last axis, whose length must be a number; it stays with length 1. */
export function meanLast(x: Value): Value {
  const last = x.shape.length - 1;
  return mul(reduceSum(x, [last]), scalar(1 / Number(x.shape[last]), x));
}

function reduced([x]: readonly Type[], { axes }: { axes: readonly number[] }): readonly Type[] {
  expect(
    axes.every((axis) => Number.isInteger(axis) && axis >= 0 && axis < x!.shape.length),
    `axes ${axes} are outside the rank`,
  );
  return [{ dtype: x!.dtype, shape: x!.shape.map((dim, i) => (axes.includes(i) ? 1 : dim)) }];
}

const reduction = (onnx: string, vjp: OpRule["vjp"]): OpRule => ({
  infer: reduced,
  vjp,
  lower: (emit, node, [x]) => {
    const { axes } = node.attributes;
    return [emit.node(onnx, [x!, emit.constant("int64", [axes.length], axes)], { keepdims: 1 })];
  },
});

export const reductionRules = {
  reduceSum: reduction("ReduceSum", ({ inputs: [x] }, [d]) => [broadcastTo(d!, x!.shape)]),
  reduceMax: reduction("ReduceMax", null),
  softmax: {
    infer: ([x]) => [x!],
    vjp: ({ outputs: [y] }, [d]) => {
      const last = [y!.shape.length - 1];
      return [mul(y!, sub(d!, reduceSum(mul(d!, y!), last)))];
    },
    lower: (emit, _, inputs) => [emit.node("Softmax", inputs, { axis: -1 })],
  },
} satisfies Record<string, OpRule>;
