// Matrix products: named linear layers (what LoRA adapts), GEMM with an accumulator, and batched products.
import { type Dim, type Shape, sameShape } from "../dims.ts";
import type { ProductFlags } from "../emitter.ts";
import { apply1, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { reduceSum } from "./reduction.ts";
import { reshape, transpose } from "./shape.ts";

/** What a linear layer is in Transformers' model, where it is no module with a matrix of its own. */
export interface LayerPlace {
  /** It is a convolution whose step is its kernel, [channels, height, width]: x has the pixels that each output reads. */
  kernel?: readonly number[];
  /** It is that of expert `expert` of `experts` which a parameter of this path holds: all of its rows, or one half of them. */
  expert?: number;
  experts?: number;
  half?: 0 | 1;
  /** Its module is no linear layer there, but has a weight. */
  isParameter?: true;
}

/**
 * x [n, in] · Wᵀ + bias, with W [out, in] as PyTorch stores it. `path` is the name of its module, or of the parameter that it is a part of,
 * by which LoRA finds it.
 */
export const linear = (x: Value, weight: Value, path: string, bias?: Value, place: LayerPlace = {}): Value =>
  apply1("linear", bias ? [x, weight, bias] : [x, weight], { path, ...place });

/** alpha · op(a) · op(b) + c for matrices; c is [m, n]. */
export const gemm = (a: Value, b: Value, { transA = false, transB = false, alpha = 1 }: ProductFlags = {}, c?: Value): Value =>
  apply1("gemm", c ? [a, b, c] : [a, b], { transA, transB, alpha });

/** alpha · op(a) · op(b) over the last two axes; the leading axes must be the same. */
export const matmul = (a: Value, b: Value, { transA = false, transB = false, alpha = 1 }: ProductFlags = {}): Value =>
  apply1("matmul", [a, b], { transA, transB, alpha });

/** [m, k] of op(x) over the last two axes. */
const effective = ({ shape }: Type, transposed: boolean): [Dim, Dim] => {
  const [rows, columns] = shape.slice(-2) as [Dim, Dim];
  return transposed ? [columns, rows] : [rows, columns];
};

function product(a: Type, b: Type, { transA, transB }: ProductFlags): Shape {
  const [m, k] = effective(a, transA!);
  const [k2, n] = effective(b, transB!);
  expect(k === k2, `the inner dims ${k} and ${k2} differ`);
  expect(a.dtype === b.dtype, "the operands differ in dtype");
  return [...a.shape.slice(0, -2), m, n];
}

type Product = (a: Value, b: Value, flags: ProductFlags) => Value;

/** Gradients of op(a)·op(b): the four textbook cases, in terms of the same product. */
function productGradients(times: Product, a: Value, b: Value, d: Value, { transA, transB, alpha }: ProductFlags): [Value, Value] {
  const da = transA ? times(b, d, { transA: transB, transB: true, alpha }) : times(d, b, { transB: !transB, alpha });
  const db = transB ? times(d, a, { transA: true, transB: transA, alpha }) : times(a, d, { transA: !transA, alpha });
  return [da, db];
}

/** Up to this many columns a factor counts as thin: LoRA's ranks. */
const THIN = 64;

/** `gemm`, but dᵀ·a with a thin `a` is computed as (aᵀ·d)ᵀ: transposing the thin result is cheaper than transposing d. */
function thinAwareGemm(a: Value, b: Value, flags: ProductFlags): Value {
  const columns = b.shape[1];
  const thin = flags.transA && !flags.transB && typeof columns === "number" && columns <= THIN;
  return thin ? transpose(gemm(b, a, { transA: true, alpha: flags.alpha }), [1, 0]) : gemm(a, b, flags);
}

export const linearRules = {
  linear: {
    infer: ([x, w, bias]) => {
      expect(x!.shape.length === 2 && w!.shape.length === 2, "it takes x [n, in] and W [out, in]");
      expect(!bias || sameShape(bias.shape, [w!.shape[0]!]), "the bias is not [out]");
      return [{ dtype: x!.dtype, shape: product(x!, w!, { transA: false, transB: true }) }];
    },
    vjp: ({ inputs: [x, w, bias] }, [d]) => [
      gemm(d!, w!),
      gemm(d!, x!, { transA: true }),
      ...(bias ? [reshape(reduceSum(d!, [0]), bias.shape)] : []),
    ],
    lower: (emit, _, inputs) => [emit.node("Gemm", inputs, { transB: 1 })],
  },
  gemm: {
    infer: ([a, b, c], flags) => {
      expect(a!.shape.length === 2 && b!.shape.length === 2, "it takes two matrices");
      const shape = product(a!, b!, flags);
      expect(!c || sameShape(c.shape, shape), "the accumulator has another shape than the product");
      return [{ dtype: a!.dtype, shape }];
    },
    vjp: ({ inputs: [a, b, c], attributes }, [d]) => [
      ...productGradients(thinAwareGemm, a!, b!, d!, attributes),
      ...(c ? [d!] : []),
    ],
    lower: (emit, node, inputs) => {
      const { transA, transB, alpha } = node.attributes;
      return [emit.node("Gemm", inputs, { transA: Number(transA), transB: Number(transB), alpha })];
    },
  },
  matmul: {
    infer: ([a, b], flags) => {
      expect(a!.shape.length >= 2 && sameShape(a!.shape.slice(0, -2), b!.shape.slice(0, -2)), "the leading axes differ");
      return [{ dtype: a!.dtype, shape: product(a!, b!, flags) }];
    },
    vjp: ({ inputs: [a, b], attributes }, [d]) => productGradients(matmul, a!, b!, d!, attributes),
    lower: (emit, node, inputs) => [emit.matmul(node.outputs[0]!, inputs[0]!, inputs[1]!, node.attributes)],
  },
} satisfies Record<string, OpRule>;
