// Cross-entropy, and its fusion with the output layer, which never holds [tokens, vocab] probabilities.

import { sameShape } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { apply, apply1, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, tanh } from "./elementwise.ts";
import { scalar } from "./leaves.ts";
import { sumOf } from "./reduction.ts";
import { reshape } from "./shape.ts";

/** -log softmax(logits)[label] of each row: logits [n, vocab], int32 labels [n] → [n]. */
export const crossEntropies = (logits: Value, labels: Value): Value => apply1("crossEntropy", [logits, labels]);
/** Their sum over the rows: a scalar. */
export const crossEntropy = (logits: Value, labels: Value): Value => sumOf(crossEntropies(logits, labels));

interface FusedAttributes {
  /** The output layer's module name, by which LoRA finds it. */
  path: string;
  /** Row chunks. */
  chunks: number;
  /** Logits become softcap · tanh(logit / softcap) (Gemma 2); not with `further` logits. */
  softcap?: number;
}

/**
 * crossEntropies(x · Wᵀ, labels) for a frozen output layer W [vocab, dim], in row chunks: x [n, dim], int32 labels [n]
 * → [n]. The gradient of x comes out of the same pass: dx = softmax · W - W[label] in each row, with the normalisation moved
 * past the product. W itself gets none, so a graph that trains it uses `linear` and `crossEntropies`. `further` are logits [n, added]
 * behind those of W, few of them, with a gradient of their own.
 */
export const linearCrossEntropy = (x: Value, weight: Value, labels: Value, attributes: FusedAttributes, further?: Value): Value =>
  apply("linearCrossEntropy", [x, weight, labels, ...(further ? [further] : [])], { ...attributes })[0]!;

/** softcap · tanh(logits / softcap), elementwise. */
export function capLogits(logits: Value, softcap: number): Value {
  return mul(tanh(mul(logits, scalar(1 / softcap, logits))), scalar(softcap, logits));
}

/** log Z + max - logits[label], given the pieces of a stable softmax, each [n, 1] as it is itself. */
const lossesOf = (emit: Emitter, z: string, max: string, chosen: string): string =>
  emit.node("Sub", [emit.node("Add", [emit.node("Log", [z]), max]), chosen]);

/** A column [n, 1] as [n]. */
const flat = (emit: Emitter, column: string): string => emit.node("Squeeze", [column, emit.int64(1)]);

/** Stable exponentials of logits [n, …] that lie in one or several parts: exp(l - max), their sum over all [n, 1], max [n, 1]. */
function exponentials(emit: Emitter, ...logits: string[]): { e: string[]; z: string; max: string } {
  const largest = logits.map((part) => emit.node("ReduceMax", [part, emit.int64(1)], { keepdims: 1 }));
  const max = largest.length > 1 ? emit.node("Max", largest) : largest[0]!;
  const e = logits.map((part) => emit.node("Exp", [emit.node("Sub", [part, max])]));
  return { e, z: emit.sum(e.map((part) => emit.node("ReduceSum", [part, emit.int64(1)], { keepdims: 1 }))), max };
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

/** Of labels [c] those of the further logits, [c, 1]: their place among them (0 for the others) and whether they are, as 0 or 1. */
function furtherLabels(emit: Emitter, dtype: Type["dtype"], labels: string, vocab: number): { place: string; own: string } {
  const first = emit.constant("int32", [], [vocab]);
  const column = emit.node("Unsqueeze", [labels, emit.int64(1)]);
  const place = emit.node("Max", [emit.node("Sub", [column, first]), emit.constant("int32", [], [0])]);
  return { place, own: emit.cast(emit.node("GreaterOrEqual", [column, first]), dtype) };
}

/** [n] as a column [n, 1], which goes with the rows of a matrix. */
const column = (x: Value): Value => reshape(x, [...x.shape, 1]);

/** Which gradients the graph reads. */
interface Wanted {
  x: boolean;
  further: boolean;
}

function lowerFused(
  emit: Emitter,
  node: Node,
  [x, w, labels, further]: readonly string[],
  { chunks, softcap }: FusedAttributes,
  wanted: Wanted,
): string[] {
  const losses: string[] = [];
  const gradients: { x: string[]; further: string[] } = { x: [], further: [] };
  const type = node.inputs[0]!;
  const vocab = Number(node.inputs[1]!.shape[0]);
  const size = emit.node("Div", [emit.node("Add", [emit.dim(type.shape[0]!), emit.int64(chunks - 1)]), emit.int64(chunks)]);
  const times = (value: string, slope: string | undefined) => (slope ? emit.node("Mul", [value, slope]) : value);
  const one = emit.constant(type.dtype, [], [1]);
  for (let i = 0; i < chunks; i++) {
    const [start, end] = [i, i + 1].map((k) => emit.node("Mul", [size, emit.int64(k)])) as [string, string];
    const cut = (value: string) => (chunks === 1 ? value : emit.slice(value, 0, start, end)); // Slice clamps the ends
    const [xi, label] = [cut(x!), cut(labels!)]; // [c, dim], [c]
    const all = capped(emit, type, emit.node("Gemm", [xi, w!], { transB: 1 }), softcap); // [c, vocab]
    const more = further && { logits: cut(further), ...furtherLabels(emit, type.dtype, label, vocab) }; // [c, added]
    const { e, z, max } = exponentials(emit, all.logits, ...(more ? [more.logits] : []));
    const within = more ? emit.node("Min", [label, emit.constant("int32", [], [vocab - 1])]) : label;
    let target = emit.node("Gather", [w!, within]); // W[label]: [c, dim]
    if (more) target = emit.node("Mul", [target, emit.node("Sub", [one, more.own])]); // zero for a label beyond W
    const product = emit.node("ReduceSum", [emit.node("Mul", [xi, target]), emit.int64(1)], { keepdims: 1 });
    const chosen = capped(emit, type, product, softcap); // [c, 1]
    const other = more && emit.node("Mul", [emit.node("GatherElements", [more.logits, more.place], { axis: 1 }), more.own]);
    losses.push(lossesOf(emit, z, max, other ? emit.node("Add", [chosen.logits, other]) : chosen.logits));
    if (wanted.x) {
      const expected = emit.node("Div", [emit.node("Gemm", [times(e[0]!, all.slope), w!]), z]);
      gradients.x.push(emit.node("Sub", [expected, times(target, chosen.slope)])); // [c, dim]
    }
    if (more && wanted.further) {
      const probabilities = emit.node("Div", [e[1]!, z]);
      const taken = emit.node("Neg", [more.own]);
      const added = emit.node("ScatterElements", [probabilities, more.place, taken], { axis: 1, reduction: "add" });
      gradients.further.push(added); // [c, added]
    }
  }
  const joined = (parts: string[]) => (parts.length > 0 ? emit.concat(parts, 0) : "");
  return [
    flat(emit, joined(losses)),
    ...(wanted.x || wanted.further ? [joined(gradients.x)] : []),
    ...(further && wanted.further ? [joined(gradients.further)] : []),
  ];
}

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
  linearCrossEntropy: {
    infer: ([x, w, labels, further], { softcap }) => {
      expect(
        x!.shape.length === 2 && w!.shape.length === 2 && x!.shape[1] === w!.shape[1],
        "it takes x [n, dim] and W [vocab, dim]",
      );
      expect(labels!.dtype === "int32" && sameShape(labels!.shape, [x!.shape[0]!]), "there is not one int32 label a row");
      const losses = { dtype: x!.dtype, shape: labels!.shape };
      if (!further) return [losses, x!];
      expect(further.shape.length === 2 && further.shape[0] === x!.shape[0], "there is not one row of further logits for a row");
      expect(!softcap, "further logits cannot be capped");
      return [losses, x!, further];
    },
    vjp: ({ outputs: [, dx, dFurther] }, [d]) => {
      const each = column(d!);
      return [mul(dx!, each), null, null, ...(dFurther ? [mul(dFurther, each)] : [])];
    },
    lower: (emit, node, inputs) => {
      const isRead = (i: number) => node.outputs[i] !== undefined && emit.isUsed(node.outputs[i]);
      return lowerFused(emit, node, inputs, node.attributes as FusedAttributes, { x: isRead(1), further: isRead(2) });
    },
  },
} satisfies Record<string, OpRule>;
