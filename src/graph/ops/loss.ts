// Cross-entropy of logits. The output layer's own is output-layer.ts.

import { sameShape } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { apply1, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul } from "./elementwise.ts";
import { sumOf } from "./reduction.ts";
import { reshape } from "./shape.ts";

/** -log softmax(logits)[label] of each row: logits [n, vocab], int32 labels [n] → [n]. */
export const crossEntropies = (logits: Value, labels: Value): Value => apply1("crossEntropy", [logits, labels]);
/** Their sum over the rows: a scalar. */
export const crossEntropy = (logits: Value, labels: Value): Value => sumOf(crossEntropies(logits, labels));

/** log Z + max - logits[label], given the pieces of a stable softmax, each [n, 1] as it is itself. */
export const lossesOf = (emit: Emitter, z: string, max: string, chosen: string): string =>
  emit.node("Sub", [emit.node("Add", [emit.node("Log", [z]), max]), chosen]);

/** A column [n, 1] as [n]. */
export const flat = (emit: Emitter, column: string): string => emit.node("Squeeze", [column, emit.int64(1)]);

/** Stable exponentials of logits [n, …]: the largest logit [n, 1], one of those `before` too, exp(logits - largest), and their sum [n, 1]. */
export function exponentials(emit: Emitter, logits: string, before?: string): { e: string; z: string; max: string } {
  const largest = emit.node("ReduceMax", [logits, emit.int64(1)], { keepdims: 1 });
  const max = before ? emit.node("Max", [before, largest]) : largest;
  const e = emit.node("Exp", [emit.node("Sub", [logits, max])]);
  return { e, z: emit.node("ReduceSum", [e, emit.int64(1)], { keepdims: 1 }), max };
}

/** [n] as a column [n, 1], which goes with the rows of a matrix. */
export const column = (x: Value): Value => reshape(x, [...x.shape, 1]);

function takesLogits([logits, labels]: readonly Type[]): void {
  expect(logits!.shape.length === 2 && labels!.dtype === "int32", "it takes logits [n, vocab] and int32 labels");
  expect(sameShape(labels!.shape, [logits!.shape[0]!]), "there is not one label a row");
}

export const lossRules = {
  crossEntropy: {
    infer: (inputs) => {
      takesLogits(inputs);
      return [{ dtype: inputs[0]!.dtype, shape: inputs[1]!.shape }];
    },
    vjp: ({ inputs: [logits, labels] }, [d]) => [mul(apply1("crossEntropyGradient", [logits!, labels!]), column(d!)), null],
    lower: (emit, _, [logits, labels]) => {
      const { z, max } = exponentials(emit, logits!);
      const chosen = emit.node("GatherElements", [logits!, emit.node("Unsqueeze", [labels!, emit.int64(1)])], { axis: 1 });
      return [flat(emit, lossesOf(emit, z, max, chosen))];
    },
  },
  crossEntropyGradient: {
    infer: (inputs) => {
      takesLogits(inputs);
      return [inputs[0]!];
    },
    vjp: null,
    lower: (emit, node, [logits, labels]) => {
      const places = emit.node("Unsqueeze", [labels!, emit.int64(1)]);
      const one = emit.node("Expand", [emit.constant(node.inputs[0]!.dtype, [], [-1]), emit.node("Shape", [places])]);
      const probabilities = emit.node("Softmax", [logits!], { axis: -1 });
      return [emit.node("ScatterElements", [probabilities, places, one], { axis: 1, reduction: "add" })];
    },
  },
} satisfies Record<string, OpRule>;
