// Frozen matrices in 4 or 8 bits as ONNX Runtime's MatMulNBits multiplies with them: activations are rounded to 8 bits, a scale a block.
import { type Dim, mulDims } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { apply1, expect, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import type { Form } from "./stored.ts";

type Bits = 4 | 8;

/** Columns of a row that share a scale: as few as GGUF's blocks have. */
export const BLOCK = 32;
/** Where 8 bits have their zero: they have no zero points of their own. */
const MIDDLE = 128;
/** The smallest scale: a block of zeros has it. */
const TINY = 1e-7;
/** Activations in 8 bits a block: the fast kernels. */
const ACCURACY_LEVEL = 4;

/** The form of matrices that `packedLinear` reads: numbers [rows, blocks, bytes], scales [rows, blocks], of 4 bits zero points too. */
export const packedForm = (bits: Bits): Form => ({
  parts: (rows, columns) => {
    expect(columns % BLOCK === 0, `rows of ${columns} are not made of blocks of ${BLOCK}`);
    const blocks = columns / BLOCK;
    const zeros = { dtype: "uint8" as const, shape: [rows, Math.ceil(blocks / 2)] };
    return [
      { dtype: "uint8", shape: [rows, blocks, (BLOCK * bits) / 8] },
      { dtype: "float32", shape: [rows, blocks] },
      ...(bits === 4 ? [zeros] : []),
    ];
  },
  store: (emit, values, shape) => (bits === 4 ? store4 : store8)(emit, values, shape),
  widen(emit, [q, scale, zeros], [rows, columns]) {
    const blocks = columns / BLOCK;
    const integers = bits === 4 ? unpacked(emit, q!, [rows, blocks, BLOCK]) : emit.cast(q!, "float32");
    const column = (x: string) => emit.reshape(x, [rows, blocks, 1]);
    const even = zeros && unpacked(emit, zeros, [rows, 2 * Math.ceil(blocks / 2)]);
    const zero = even ? column(emit.slice(even, 1, emit.int64(0), emit.int64(blocks))) : number(emit, MIDDLE);
    const x = emit.node("Mul", [emit.node("Sub", [integers, zero]), column(scale!)]);
    return emit.reshape(x, [rows, columns]);
  },
});

const number = (emit: Emitter, value: number) => emit.constant("float32", [], [value]);

/** The columns of x as rows [rows · blocks, 32]. */
const byBlock = (emit: Emitter, x: string, [rows, columns]: [Dim, number]): string =>
  emit.reshape(x, [mulDims(rows, columns / BLOCK), BLOCK]);
const overBlock = (emit: Emitter, op: "ReduceMax" | "ReduceMin", x: string): string =>
  emit.node(op, [x, emit.int64(1)], { keepdims: 1 });
const atLeast = (emit: Emitter, x: string, least: number): string => emit.node("Max", [x, number(emit, least)]);

function store8(emit: Emitter, values: string, [rows, columns]: [Dim, number]): string[] {
  const blocks = columns / BLOCK;
  const x = byBlock(emit, values, [rows, columns]);
  const largest = overBlock(emit, "ReduceMax", emit.node("Abs", [x]));
  const scale = atLeast(emit, emit.node("Div", [largest, number(emit, 127)]), TINY);
  const q = emit.node("Add", [emit.node("Round", [emit.node("Div", [x, scale])]), number(emit, MIDDLE)]);
  return [emit.reshape(emit.cast(q, "uint8"), [rows, blocks, BLOCK]), emit.reshape(scale, [rows, blocks])];
}

function store4(emit: Emitter, values: string, [rows, columns]: [Dim, number]): string[] {
  const blocks = columns / BLOCK;
  const x = byBlock(emit, values, [rows, columns]);
  const most = atLeast(emit, overBlock(emit, "ReduceMax", x), 0);
  const least = emit.node("Min", [overBlock(emit, "ReduceMin", x), number(emit, 0)]);
  const range = emit.node("Sub", [most, least]);
  const scale = atLeast(emit, emit.node("Div", [range, number(emit, 15)]), TINY);
  const zero = emit.node("Round", [emit.node("Neg", [emit.node("Div", [least, scale])])]); // 0 … 15
  const units = emit.node("Add", [emit.node("Round", [emit.node("Div", [x, scale])]), zero]);
  const q = emit.cast(emit.node("Clip", [units, number(emit, 0), number(emit, 15)]), "uint8");
  const zeros = emit.reshape(emit.cast(zero, "uint8"), [rows, blocks]);
  const odd = blocks % 2 === 1;
  const even = odd ? emit.node("Pad", [zeros, emit.constant("int64", [4], [0, 0, 0, 1])]) : zeros;
  return [
    packed(emit, q, [rows, blocks, BLOCK / 2]),
    emit.reshape(scale, [rows, blocks]),
    packed(emit, even, [rows, Math.ceil(blocks / 2)]),
  ];
}

/** Two 4-bit numbers a byte, the first in the lower half. */
function packed(emit: Emitter, q: string, shape: [Dim, ...number[]]): string {
  const [rows, ...rest] = shape;
  const pairs = emit.reshape(q, [rest.reduce<Dim>((size, dim) => mulDims(size, dim), rows), 2]);
  const [low, high] = [0, 1].map((at) => emit.slice(pairs, 1, emit.int64(at), emit.int64(at + 1)));
  const shifted = emit.node("BitShift", [high!, emit.constant("uint8", [], [4])], { direction: "LEFT" });
  return emit.reshape(emit.node("BitwiseOr", [low!, shifted]), shape);
}

/** The numbers that `packed` packed, as float32. */
function unpacked(emit: Emitter, bytes: string, shape: [Dim, ...number[]]): string {
  const column = emit.node("Unsqueeze", [bytes, emit.int64(-1)]);
  const low = emit.node("BitwiseAnd", [column, emit.constant("uint8", [], [15])]);
  const high = emit.node("BitShift", [column, emit.constant("uint8", [], [4])], { direction: "RIGHT" });
  return emit.cast(emit.reshape(emit.node("Concat", [low, high], { axis: -1 }), shape), "float32");
}

/** `linear` with a weight of which there are `parts` in a packed form. */
export const packedLinear = (x: Value, parts: readonly Value[], bits: Bits, path: string, bias?: Value): Value =>
  apply1("packedLinear", [x, ...parts, ...(bias ? [bias] : [])], { bits, path, hasBias: bias !== undefined });

export const packedRules = {
  packedLinear: {
    infer: ([x, q], { bits }) => {
      const [rows, blocks, bytes] = q!.shape;
      expect(x!.dtype === "float32" && x!.shape.length === 2, "it takes float32 x [n, in]");
      expect(bytes === (BLOCK * bits) / 8 && x!.shape[1] === Number(blocks) * BLOCK, "the weight has other columns than x");
      return [{ dtype: "float32", shape: [x!.shape[0]!, rows!] }];
    },
    vjp: null,
    lower: (emit, { inputs, attributes: { bits, hasBias } }, names) => {
      const [N, blocks] = inputs[1]!.shape.map(Number) as [number, number];
      const given = hasBias ? names.slice(0, -1) : [...names];
      if (hasBias) while (given.length < 5) given.push("");
      const sizes = { K: blocks * BLOCK, N, bits, block_size: BLOCK, accuracy_level: ACCURACY_LEVEL };
      return [emit.node("MatMulNBits", hasBias ? [...given, names.at(-1)!] : given, sizes)];
    },
  },
} satisfies Record<string, OpRule>;
