// What products in 8-bit integers need: blocks rotated so that no element stands out, rows in 8 bits, the columns that still stand
// out kept apart. After QuaRot (Ashkboos et al. 2024) and LLM.int8() (Dettmers et al. 2022).
import type { Dim } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { apply, apply1, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";

/** Columns that are rotated together. */
export const ROTATED = 32;

/** What stands for zero in rows of uint8: x86 multiplies uint8 with int8 fast, int8 with int8 slowly. */
const ZERO = 128;
/** The smallest scale: a row of zeros has it. */
const TINY = 1e-20;

/** x [n, in] with each block of 32 columns times the symmetric Hadamard matrix of order 32 over √32, + z [n, in]. It is its own inverse. */
export const rotate = (x: Value, z?: Value): Value => apply1("rotate", z ? [x, z] : [x]);

/** Rows of x [n, in] as uint8 around 128, and float32 [n, 1]: the greatest element of a row is 127 of its scale. */
export function quantiseRows(x: Value): { q: Value; scale: Value } {
  const [q, scale] = apply("quantiseRows", [x]);
  return { q: q!, scale: scale! };
}

/**
 * The `count` columns of x [n, in] that stand out most, int32 [count]: by the squares of their elements, each in units of the mean
 * square of its row.
 */
export const standingOut = (x: Value, count: number): Value => apply1("standingOut", [x], { count });
/** x [n, in] with zeros in the columns at `places`. */
export const withoutColumns = (x: Value, places: Value): Value => apply1("withoutColumns", [x, places]);
/** The columns of x [n, in] at `places`, int32 [count]: [n, count]. */
export const columnsAt = (x: Value, places: Value): Value => apply1("columnsAt", [x, places]);

/** q (uint8 [n, k] around 128) · w (int8 [k, m], or [m, k] with `transB`) as float32, its columns times `scale` [m]. */
export const integerProduct = (q: Value, w: Value, { transB = false } = {}, scale?: Value): Value =>
  apply1("integerProduct", scale ? [q, w, scale] : [q, w], { transB });

/** The sign of an element of Sylvester's Hadamard matrix. */
function sign(row: number, column: number): number {
  let sign = 1;
  for (let both = row & column; both > 0; both &= both - 1) sign = -sign;
  return sign;
}

const signs = Array.from({ length: ROTATED * ROTATED }, (_, i) => sign(Math.floor(i / ROTATED), i % ROTATED));

/** x, any matrix of whole blocks, rotated; `z` is added. */
export function rotated(emit: Emitter, x: string, shape: readonly Dim[], z?: string): string {
  const h = emit.constant(
    "float32",
    [ROTATED, ROTATED],
    signs.map((sign) => sign / Math.sqrt(ROTATED)),
  );
  const rows = emit.constant("int64", [2], [-1, ROTATED]);
  const [blocks, sum] = [x, z].map((value) => value && emit.node("Reshape", [value, rows]));
  return emit.reshape(sum ? emit.node("Gemm", [blocks!, h, sum]) : emit.node("MatMul", [blocks!, h]), shape);
}

/** Rows in 8 bits, [n, k], and their scales, [n, 1]. */
export interface QuantisedRows {
  q: string;
  scale: string;
}

/** How rows are rounded to 8 bits. */
interface Rounding {
  /** x ≥ 0: from zero on, not around `ZERO`. */
  isPositive?: boolean;
  /** n, where it is known: then quantisers share their zero points. */
  rows?: Dim;
}

/** Rows of x [n, k] as uint8. */
export function quantisedRows(emit: Emitter, x: string, rounding: Rounding = {}): QuantisedRows {
  const float = (value: number) => emit.constant("float32", [], [value]);
  const steps = rounding.isPositive ? 255 : 127;
  const end = (op: string) => emit.node(op, [x, emit.int64(1)], { keepdims: 1 });
  const ends = [end("ReduceMax"), ...(rounding.isPositive ? [] : [emit.node("Neg", [end("ReduceMin")])])]; // without a pass for |x|
  const scale = emit.node("Mul", [emit.node("Max", [...ends, float(steps * TINY)]), float(1 / steps)]);
  return { q: emit.node("QuantizeLinear", [x, ...perRow(emit, scale, rounding)], { axis: 0 }), scale };
}

/** What `quantisedRows` holds, as float32. */
export const widenedRows = (emit: Emitter, { q, scale }: QuantisedRows, rounding: Rounding = {}): string =>
  emit.node("DequantizeLinear", [q, ...perRow(emit, scale, rounding)], { axis: 0 });

/** Scales [n], and zero points where zero is not 0. */
function perRow(emit: Emitter, scale: string, { isPositive, rows }: Rounding): string[] {
  const flat = emit.shared("Squeeze", [scale, emit.int64(1)]);
  if (isPositive) return [flat];
  const shape = rows === undefined ? emit.shared("Shape", [flat]) : emit.shape([rows]);
  return [flat, emit.shared("Expand", [emit.constant("uint8", [], [ZERO]), shape])];
}

/** q (uint8 [n, k] around `ZERO`, or from zero on) · w (int8 [k, m]) as float32, its columns times `scale` [m]. */
export function productOfIntegers(emit: Emitter, q: string, w: string, { scale = "", isPositive = false } = {}): string {
  const one = emit.constant("float32", [], [1]);
  return emit.node("MatMulIntegerToFloat", [q, w, one, scale || one, emit.constant("uint8", [], [isPositive ? 0 : ZERO])]);
}

/** Rows of a multiple of so many bytes lie in few sets of a processor's cache: walking down a column of them is 3 to 4 times as slow. */
const CROWDED = 2048;
/** Bytes by which such rows are made longer: a line of the cache. */
const APART = 64;

/** wᵀ for products with rows of q, whose zero is `ZERO`, and those rows as the product takes them. */
export interface Transposed {
  weight: string;
  rows(q: string): string;
}

/** w, int8 [m, k], transposed: with rows of zeros at its end where k is `CROWDED`, and q with as many columns. */
export function transposedWeight(emit: Emitter, w: string, [m, k]: readonly [Dim, Dim]): Transposed {
  if (typeof k !== "number" || k % CROWDED !== 0) {
    return { weight: emit.node("Transpose", [w], { perm: [1, 0] }), rows: (q) => q };
  }
  const zeros = emit.node("Expand", [emit.constant("int8", [], [0]), emit.shape([m, APART])]);
  const apart = emit.constant("int64", [4], [0, 0, 0, APART]);
  return {
    weight: emit.node("Transpose", [emit.concat([w, zeros], 1)], { perm: [1, 0] }), // [k + 64, m]
    rows: (q) => emit.node("Pad", [q, apart, emit.constant("uint8", [], [ZERO])]), // [n, k + 64]
  };
}

function expectColumns([x, places]: readonly Type[]): void {
  expect(x!.dtype === "float32" && x!.shape.length === 2, "it takes a float32 matrix");
  expect(places!.dtype === "int32" && places!.shape.length === 1, "it takes int32 places");
}

export const rotatedRules = {
  rotate: {
    infer: ([x, z]) => {
      expect(x!.shape.length === 2 && Number(x!.shape[1]) % ROTATED === 0, `it takes rows of whole blocks of ${ROTATED}`);
      expect(x!.dtype === "float32" && (!z || String(z.shape) === String(x!.shape)), "it takes float32 of one shape");
      return [x!];
    },
    vjp: null,
    lower: (emit, node, [x, z]) => [rotated(emit, x!, node.outputs[0]!.shape, z)],
  },
  quantiseRows: {
    infer: ([x]) => {
      expect(x!.dtype === "float32" && x!.shape.length === 2, "it takes a float32 matrix");
      return [
        { dtype: "uint8", shape: x!.shape },
        { dtype: "float32", shape: [x!.shape[0]!, 1] },
      ];
    },
    vjp: null,
    lower: (emit, { inputs }, [x]) => {
      const { q, scale } = quantisedRows(emit, x!, { rows: inputs[0]!.shape[0]! });
      return [q, scale];
    },
  },
  standingOut: {
    infer: ([x], { count }) => {
      expect(x!.dtype === "float32" && x!.shape.length === 2, "it takes a float32 matrix");
      expect(count <= Number(x!.shape[1]), "there are not as many columns");
      return [{ dtype: "int32", shape: [count] }];
    },
    vjp: null,
    lower: (emit, { inputs, attributes: { count } }, [x]) => {
      const square = emit.node("Mul", [x!, x!]);
      const mean = emit.node("ReduceMean", [square, emit.int64(1)], { keepdims: 1 });
      const weights = emit.node("Reciprocal", [emit.node("Max", [mean, emit.constant("float32", [], [TINY])])]); // [n, 1]
      const score = emit.reshape(emit.node("Gemm", [weights, square], { transA: 1 }), [inputs[0]!.shape[1]!]);
      const [, places] = emit.nodes("TopK", [score, emit.int64(count)], 2, { axis: 0, largest: 1, sorted: 1 });
      return [emit.cast(places!, "int32")];
    },
  },
  withoutColumns: {
    infer: (inputs) => {
      expectColumns(inputs);
      return [inputs[0]!];
    },
    vjp: null,
    lower: (emit, { inputs }, [x, places]) => {
      const [width, count] = [inputs[0]!.shape[1], inputs[1]!.shape[0]].map(Number) as [number, number];
      const ones = emit.constant("float32", [width], Array(width).fill(1));
      const none = emit.constant("float32", [count], Array(count).fill(0));
      return [emit.node("Mul", [x!, emit.node("ScatterElements", [ones, places!, none], { axis: 0 })])];
    },
  },
  columnsAt: {
    infer: (inputs) => {
      expectColumns(inputs);
      return [{ dtype: "float32", shape: [inputs[0]!.shape[0]!, inputs[1]!.shape[0]!] }];
    },
    vjp: null,
    lower: (emit, _, [x, places]) => [emit.node("Gather", [x!, places!], { axis: 1 })],
  },
  integerProduct: {
    infer: ([q, w, scale], { transB }) => {
      const [k, m] = transB ? [w!.shape[1], w!.shape[0]!] : [w!.shape[0], w!.shape[1]!];
      expect(q!.dtype === "uint8" && w!.dtype === "int8" && q!.shape[1] === k, "it takes uint8 [n, k] and int8 [k, m]");
      expect(!scale || (scale.dtype === "float32" && scale.shape.length === 1 && scale.shape[0] === m), "the scale is not [m]");
      return [{ dtype: "float32", shape: [q!.shape[0]!, m] }];
    },
    vjp: null,
    lower: (emit, { inputs, attributes: { transB } }, [q, w, scale]) => {
      const b = transB ? transposedWeight(emit, w!, inputs[1]!.shape as [Dim, Dim]) : { weight: w!, rows: (q: string) => q };
      return [productOfIntegers(emit, b.rows(q!), b.weight, { scale })];
    },
  },
} satisfies Record<string, OpRule>;
