// Forms in which a frozen weight is kept in fewer bytes than float32: how it is stored, and how it is widened where it is read.
import { type Dim, mulDims, type Shape, sameShape } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { apply, apply1, type ElementType, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { BLOCK, packedForm } from "./packed.ts";
import { ROTATED, rotated } from "./rotated.ts";

export interface Form {
  /** The tensors that hold a weight [rows, columns], rows first in each. */
  parts(rows: Dim, columns: number): Type[];
  /** Whether a processor converts to it as fast as a disk reads, so that the result is not worth keeping on disk. */
  isQuick?: boolean;
  /** From float32 [rows, columns] to the parts. */
  store(emit: Emitter, values: string, shape: [Dim, number]): string[];
  /** From the parts back to float32 [rows, columns]. */
  widen(emit: Emitter, parts: readonly string[], shape: [Dim, number]): string;
}

const blocks = (columns: number): number => {
  expect(columns % BLOCK === 0, `rows of ${columns} are not made of blocks of ${BLOCK}`);
  return columns / BLOCK;
};
/** As [blocks, 32], so that a scale belongs to a row: DequantizeLinear is fast by rows, and slow by blocks within them. */
const byBlock = ([rows, columns]: [Dim, number]): Shape => [mulDims(rows, blocks(columns)), BLOCK];

const sixteenBits = (dtype: ElementType): Form => ({
  isQuick: true,
  parts: (rows, columns) => [{ dtype, shape: [rows, columns] }],
  store: (emit, values) => [emit.cast(values, dtype)],
  widen: (emit, [part]) => emit.cast(part!, "float32"),
});

const number = (emit: Emitter, value: number) => emit.constant("float32", [], [value]);
/** The smallest scale: a block of zeros has it. */
const TINY = 1e-7;

/** Scales of blocks as they are stored, float16 [rows, blocks], and as they are read again, float32 [rows·blocks]. */
function rounded(emit: Emitter, scale: string, [rows, columns]: [Dim, number]): { kept: string; read: string } {
  const kept = emit.cast(emit.reshape(scale, [rows, blocks(columns)]), "float16");
  return { kept, read: readScale(emit, kept, [rows, columns]) };
}

const readScale = (emit: Emitter, kept: string, [rows, columns]: [Dim, number]): string =>
  emit.reshape(emit.cast(kept, "float32"), [mulDims(rows, blocks(columns))]);

/** The rows of a matrix less `low`, in units of `scale`: integers from 0 to `most` as uint8, or from -`most` as int8 without `low`. */
function quantised(emit: Emitter, values: string, scale: string, shape: Shape, dtype: "int8" | "uint8", most: number): string {
  const column = emit.reshape(scale, [shape[0]!, 1]);
  const units = emit.node("Round", [emit.node("Div", [values, column])]);
  const clipped = emit.node("Clip", [units, number(emit, dtype === "int8" ? -most : 0), number(emit, most)]);
  return emit.cast(clipped, dtype);
}

/** A matrix rotated, in 8 bits, and the scale of each row, [rows, 1]. */
function rotatedRows(emit: Emitter, values: string, shape: [Dim, number]): [string, string] {
  const x = rotated(emit, values, shape);
  const largest = emit.node("ReduceMax", [emit.node("Abs", [x]), emit.int64(1)], { keepdims: 1 });
  const scale = emit.node("Max", [emit.node("Div", [largest, number(emit, 127)]), number(emit, TINY)]);
  const flat = emit.reshape(scale, [shape[0]]);
  const zeros = emit.node("Expand", [emit.constant("int8", [], [0]), emit.node("Shape", [flat])]);
  return [emit.node("QuantizeLinear", [x, flat, zeros], { axis: 0 }), scale];
}

/** Rotated in blocks of 32 columns, 8 bits a number with a scale for each row: what integer products of an output layer take. */
const int8rows: Form = {
  parts: (rows, columns) => {
    expect(columns % ROTATED === 0, `rows of ${columns} are not made of blocks of ${ROTATED}`);
    return [
      { dtype: "int8", shape: [rows, columns] },
      { dtype: "float32", shape: [rows, 1] },
    ];
  },
  store: rotatedRows,
  widen: (emit, [q, scale], shape) => {
    const flat = emit.reshape(scale!, [shape[0]]);
    return rotated(emit, emit.node("DequantizeLinear", [q!, flat], { axis: 0 }), shape);
  },
};

export const forms = {
  bfloat16: sixteenBits("bfloat16"),
  float16: sixteenBits("float16"),
  /** A float16 scale for each block of 32, and 8 bits a number (GGUF's Q8_0). */
  int8: {
    parts: (rows, columns) => [
      { dtype: "int8", shape: [rows, columns] },
      { dtype: "float16", shape: [rows, blocks(columns)] },
    ],
    store(emit, values, shape) {
      const x = emit.reshape(values, byBlock(shape));
      const largest = emit.node("ReduceMax", [emit.node("Abs", [x]), emit.int64(1)], { keepdims: 1 });
      const scale = emit.node("Max", [emit.node("Div", [largest, number(emit, 127)]), number(emit, TINY)]);
      const { kept, read } = rounded(emit, scale, shape);
      return [emit.reshape(quantised(emit, x, read, byBlock(shape), "int8", 127), shape), kept];
    },
    widen(emit, [q, scale], shape) {
      const x = emit.node("DequantizeLinear", [emit.reshape(q!, byBlock(shape)), readScale(emit, scale!, shape)], { axis: 0 });
      return emit.reshape(x, shape);
    },
  },
  /** A float16 scale and a float16 least value for each block of 32, and 4 bits a number (GGUF's Q4_1). */
  int4: {
    parts: (rows, columns) => [
      { dtype: "uint8", shape: [rows, columns / 2] },
      { dtype: "float16", shape: [rows, blocks(columns)] },
      { dtype: "float16", shape: [rows, blocks(columns)] },
    ],
    store(emit, values, shape) {
      const x = emit.reshape(values, byBlock(shape));
      const [least, most] = ["ReduceMin", "ReduceMax"].map((op) => emit.node(op, [x, emit.int64(1)], { keepdims: 1 }));
      const low = rounded(emit, least!, shape);
      const column = emit.reshape(low.read, [byBlock(shape)[0]!, 1]);
      const range = emit.node("Div", [emit.node("Sub", [most!, column]), number(emit, 15)]);
      const scale = rounded(emit, emit.node("Max", [range, number(emit, TINY)]), shape);
      const q = quantised(emit, emit.node("Sub", [x, column]), scale.read, byBlock(shape), "uint8", 15);
      const half = shape[1] / 2;
      const flat = emit.reshape(q, shape);
      const [left, right] = [0, half].map((start) => emit.slice(flat, 1, emit.int64(start), emit.int64(start + half)));
      const shifted = emit.node("BitShift", [right!, emit.constant("uint8", [], [4])], { direction: "LEFT" });
      return [emit.node("BitwiseOr", [left!, shifted]), scale.kept, low.kept];
    },
    widen(emit, [q, scale, low], shape) {
      const left = emit.node("BitwiseAnd", [q!, emit.constant("uint8", [], [15])]);
      const right = emit.node("BitShift", [q!, emit.constant("uint8", [], [4])], { direction: "RIGHT" });
      const all = emit.reshape(emit.concat([left, right], 1), byBlock(shape));
      const x = emit.node("DequantizeLinear", [all, readScale(emit, scale!, shape)], { axis: 0 });
      const column = emit.reshape(readScale(emit, low!, shape), [byBlock(shape)[0]!, 1]);
      return emit.reshape(emit.node("Add", [x, column]), shape);
    },
  },
  int8rows,
  /** `int8rows`, transposed: what integer products of inner layers take (`integerProduct`). */
  int8rotated: {
    parts: (rows, columns) => {
      const [q, scale] = int8rows.parts(rows, columns) as [Type, Type];
      return [
        { ...q, shape: [columns, rows] },
        { ...scale, shape: [rows] },
      ];
    },
    store(emit, values, shape) {
      const [q, scale] = rotatedRows(emit, values, shape);
      return [emit.node("Transpose", [q], { perm: [1, 0] }), emit.reshape(scale, [shape[0]])];
    },
    widen: (emit, [q, scale], shape) => int8rows.widen(emit, [emit.node("Transpose", [q!], { perm: [1, 0] }), scale!], shape),
  },
  packed8: packedForm(8),
  packed4: packedForm(4),
} satisfies Record<string, Form>;

export type FormName = keyof typeof forms;

/** The parts that hold float32 x [rows, columns] in a form. */
export const stored = (x: Value, form: FormName): readonly Value[] => apply("store", [x], { form });
/** What `parts` hold, as float32 [rows, columns]. */
export const widened = (parts: readonly Value[], form: FormName): Value => apply1("widen", parts, { form });

const formOf = ({ attributes }: Pick<Node, "attributes">): Form => forms[attributes["form"] as FormName];

/** Whether converting to it takes no longer than reading what was converted before. */
export const isQuick = (form: FormName): boolean => (forms[form] as Form).isQuick ?? false;
export const partCount = (form: FormName): number => forms[form].parts(1, BLOCK).length;

/** Whether these are the parts of a matrix in `form`. */
export function holds(form: FormName, parts: readonly Type[]): boolean {
  const expected = forms[form].parts(...wideShape(form, parts[0]!.shape));
  return expected.every(({ dtype, shape }, i) => dtype === parts[i]?.dtype && sameShape(shape, parts[i]!.shape));
}

/** [rows, columns] of the float32 matrix whose first part in `form` has this shape. */
export function wideShape(form: FormName, [rows, columns, inBlock]: Shape): [Dim, number] {
  if (form === "int8rotated") return [columns!, Number(rows)];
  if (inBlock !== undefined) return [rows!, BLOCK * Number(columns)];
  return [rows!, form === "int4" ? 2 * Number(columns) : Number(columns)];
}

export const storedRules = {
  store: {
    infer: ([x], attributes) => {
      expect(x!.dtype === "float32" && x!.shape.length === 2 && typeof x!.shape[1] === "number", "it takes a float32 matrix");
      return formOf({ attributes }).parts(x!.shape[0]!, Number(x!.shape[1]));
    },
    vjp: null,
    lower: (emit, node, [x]) => formOf(node).store(emit, x!, node.inputs[0]!.shape as [Dim, number]),
  },
  widen: {
    infer: (parts, attributes) => {
      expect(holds(attributes.form, parts), `the parts are not those of ${attributes.form}`);
      return [{ dtype: "float32", shape: wideShape(attributes.form, parts[0]!.shape) }];
    },
    vjp: null,
    lower: (emit, node, parts) => [formOf(node).widen(emit, parts, wideShape(node.attributes.form, node.inputs[0]!.shape))],
  },
} satisfies Record<string, OpRule>;
