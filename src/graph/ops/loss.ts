// Cross-entropy, and its fusion with the output layer, which never holds [tokens, vocab] probabilities.
import type { Emitter } from "../../onnx/emitter.ts";
import { sameShape } from "../dims.ts";
import { apply, apply1, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul } from "./elementwise.ts";

/** Sum over rows of -log softmax(logits)[label]: logits [n, vocab], int32 labels [n] → scalar. */
export const crossEntropy = (logits: Value, labels: Value): Value => apply1("crossEntropy", [logits, labels]);

/**
 * crossEntropy(x · Wᵀ, labels) for a frozen output layer W [vocab, dim], in `chunks` row chunks: x [n, dim], int32 labels [n]
 * → scalar. The gradient of x comes out of the same pass: dx = softmax · W - W[label], with the normalisation moved past
 * the product. W itself gets none, so a graph that trains it uses `linear` and `crossEntropy`.
 */
export const linearCrossEntropy = (x: Value, weight: Value, labels: Value, path: string, chunks: number): Value =>
  apply("linearCrossEntropy", [x, weight, labels], { path, chunks })[0]!;

/** log Z + max - logits[label] summed, given the pieces of a stable softmax, each [n, 1]. */
function lossOf(emit: Emitter, z: string, max: string, chosen: string): string {
  const each = emit.node("Sub", [emit.node("Add", [emit.node("Log", [z]), max]), chosen]);
  return emit.node("ReduceSum", [each], { keepdims: 0 });
}

/** Stable exponentials of logits [n, vocab]: exp(l - max) [n, vocab], their sum [n, 1], max [n, 1]. */
function exponentials(emit: Emitter, logits: string): { e: string; z: string; max: string } {
  const max = emit.node("ReduceMax", [logits, emit.int64(1)], { keepdims: 1 });
  const e = emit.node("Exp", [emit.node("Sub", [logits, max])]);
  return { e, z: emit.node("ReduceSum", [e, emit.int64(1)], { keepdims: 1 }), max };
}

function lowerFused(emit: Emitter, node: Node, [x, w, labels]: readonly string[], chunks: number, gradient: boolean): string[] {
  const losses: string[] = [];
  const gradients: string[] = [];
  const rows = emit.dim(node.inputs[0]!.shape[0]!);
  const size = emit.node("Div", [emit.node("Add", [rows, emit.int64(chunks - 1)]), emit.int64(chunks)]); // ceil(n / chunks)
  for (let i = 0; i < chunks; i++) {
    const [start, end] = [i, i + 1].map((k) => emit.node("Mul", [size, emit.int64(k)])) as [string, string];
    const cut = (value: string) => (chunks === 1 ? value : emit.slice(value, 0, start, end)); // Slice clamps the ends
    const xi = cut(x!); // [c, dim]
    const { e, z, max } = exponentials(emit, emit.node("Gemm", [xi, w!], { transB: 1 })); // [c, vocab]
    const target = emit.node("Gather", [w!, cut(labels!)]); // W[label]: [c, dim]
    const chosen = emit.node("ReduceSum", [emit.node("Mul", [xi, target]), emit.int64(1)], { keepdims: 1 }); // [c, 1]
    losses.push(lossOf(emit, z, max, chosen));
    if (gradient) gradients.push(emit.node("Sub", [emit.node("Div", [emit.node("Gemm", [e, w!]), z]), target])); // [c, dim]
  }
  return [emit.sum(losses), ...(gradient ? [emit.concat(gradients, 0)] : [])];
}

function takesLogits([logits, labels]: readonly Type[]): void {
  expect(logits!.shape.length === 2 && labels!.dtype === "int32", "it takes logits [n, vocab] and int32 labels");
  expect(sameShape(labels!.shape, [logits!.shape[0]!]), "there is not one label a row");
}

export const lossRules = {
  crossEntropy: {
    infer: (inputs) => {
      takesLogits(inputs);
      return [{ dtype: inputs[0]!.dtype, shape: [] }];
    },
    vjp: ({ inputs: [logits, labels] }, [d]) => [mul(apply1("crossEntropyGradient", [logits!, labels!]), d!), null],
    lower: (emit, _, [logits, labels]) => {
      const { z, max } = exponentials(emit, logits!);
      const column = emit.node("Unsqueeze", [labels!, emit.int64(1)]);
      return [lossOf(emit, z, max, emit.node("GatherElements", [logits!, column], { axis: 1 }))];
    },
  },
  crossEntropyGradient: {
    infer: (inputs) => {
      takesLogits(inputs);
      return [inputs[0]!];
    },
    vjp: null,
    lower: (emit, node, [logits, labels]) => {
      const column = emit.node("Unsqueeze", [labels!, emit.int64(1)]);
      const one = emit.node("Expand", [emit.constant(node.inputs[0]!.dtype, [], [-1]), emit.node("Shape", [column])]);
      const probabilities = emit.node("Softmax", [logits!], { axis: -1 });
      return [emit.node("ScatterElements", [probabilities, column, one], { axis: 1, reduction: "add" })];
    },
  },
  linearCrossEntropy: {
    infer: ([x, w, labels]) => {
      expect(
        x!.shape.length === 2 && w!.shape.length === 2 && x!.shape[1] === w!.shape[1],
        "it takes x [n, dim] and W [vocab, dim]",
      );
      expect(labels!.dtype === "int32" && sameShape(labels!.shape, [x!.shape[0]!]), "there is not one int32 label a row");
      return [{ dtype: x!.dtype, shape: [] }, x!];
    },
    vjp: ({ outputs: [, dx] }, [d]) => [mul(dx!, d!), null, null],
    lower: (emit, node, inputs) => lowerFused(emit, node, inputs, node.attributes.chunks, emit.isUsed(node.outputs[1]!)),
  },
} satisfies Record<string, OpRule>;
