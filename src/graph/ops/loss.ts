// Cross-entropy, and its fusion with the output layer, which never holds [tokens, vocab] probabilities.
import type { Emitter } from "../../onnx/emitter.ts";
import { sameShape } from "../dims.ts";
import { apply, apply1, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, tanh } from "./elementwise.ts";
import { scalar } from "./leaves.ts";

/** Sum over rows of -log softmax(logits)[label]: logits [n, vocab], int32 labels [n] → scalar. */
export const crossEntropy = (logits: Value, labels: Value): Value => apply1("crossEntropy", [logits, labels]);

interface FusedAttributes {
  /** The output layer's module name, by which LoRA finds it. */
  path: string;
  /** Row chunks. */
  chunks: number;
  /** Logits become softcap · tanh(logit / softcap) (Gemma 2). */
  softcap?: number;
}

/**
 * crossEntropy(x · Wᵀ, labels) for a frozen output layer W [vocab, dim], in row chunks: x [n, dim], int32 labels [n]
 * → scalar. The gradient of x comes out of the same pass: dx = softmax · W - W[label], with the normalisation moved past
 * the product. W itself gets none, so a graph that trains it uses `linear` and `crossEntropy`.
 */
export const linearCrossEntropy = (x: Value, weight: Value, labels: Value, attributes: FusedAttributes): Value =>
  apply("linearCrossEntropy", [x, weight, labels], { ...attributes })[0]!;

/** softcap · tanh(logits / softcap), elementwise. */
export function capLogits(logits: Value, softcap: number): Value {
  return mul(tanh(mul(logits, scalar(1 / softcap, logits))), scalar(softcap, logits));
}

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

/** Logits as the loss sees them and, where they are capped, 1 - tanh², by which the gradient shrinks. */
function capped(emit: Emitter, type: Type, logits: string, softcap: number | undefined): { logits: string; slope?: string } {
  if (!softcap) return { logits };
  const number = (value: number) => emit.constant(type.dtype, [], [value]);
  const t = emit.node("Tanh", [emit.node("Mul", [logits, number(1 / softcap)])]);
  return {
    logits: emit.node("Mul", [t, number(softcap)]),
    slope: emit.node("Sub", [number(1), emit.node("Mul", [t, t])]),
  };
}

function lowerFused(
  emit: Emitter,
  node: Node,
  [x, w, labels]: readonly string[],
  { chunks, softcap }: FusedAttributes,
  gradient: boolean,
): string[] {
  const losses: string[] = [];
  const gradients: string[] = [];
  const type = node.inputs[0]!;
  const size = emit.node("Div", [emit.node("Add", [emit.dim(type.shape[0]!), emit.int64(chunks - 1)]), emit.int64(chunks)]);
  const times = (value: string, slope: string | undefined) => (slope ? emit.node("Mul", [value, slope]) : value);
  for (let i = 0; i < chunks; i++) {
    const [start, end] = [i, i + 1].map((k) => emit.node("Mul", [size, emit.int64(k)])) as [string, string];
    const cut = (value: string) => (chunks === 1 ? value : emit.slice(value, 0, start, end)); // Slice clamps the ends
    const xi = cut(x!); // [c, dim]
    const all = capped(emit, type, emit.node("Gemm", [xi, w!], { transB: 1 }), softcap); // [c, vocab]
    const { e, z, max } = exponentials(emit, all.logits);
    const target = emit.node("Gather", [w!, cut(labels!)]); // W[label]: [c, dim]
    const product = emit.node("ReduceSum", [emit.node("Mul", [xi, target]), emit.int64(1)], { keepdims: 1 });
    const chosen = capped(emit, type, product, softcap); // [c, 1]
    losses.push(lossOf(emit, z, max, chosen.logits));
    if (!gradient) continue;
    const expected = emit.node("Div", [emit.node("Gemm", [times(e, all.slope), w!]), z]);
    gradients.push(emit.node("Sub", [expected, times(target, chosen.slope)])); // [c, dim]
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
    lower: (emit, node, inputs) =>
      lowerFused(emit, node, inputs, node.attributes as FusedAttributes, emit.isUsed(node.outputs[1]!)),
  },
} satisfies Record<string, OpRule>;
