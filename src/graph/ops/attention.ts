// Scaled dot-product attention (Vaswani et al. 2017) and rotary positions (Su et al. 2021) as ops.
// Query rows go in blocks: a causal block meets only the keys up to its end, and its scores stay in cache.
import type { Emitter } from "../../onnx/emitter.ts";
import { type Dim, sameShape } from "../dims.ts";
import { apply, apply1, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { neg } from "./elementwise.ts";

interface AttentionAttributes {
  /** Factor of the scores before the mask. */
  scale: number;
  /** Whether the mask hides every key after its query, which lets early query blocks skip late keys. */
  causal: boolean;
  /** Number of query blocks. */
  blocks: number;
}

/**
 * softmax(scale · q kᵀ + mask) v with grouped heads: q [batch, kv, group, queries, dim], k and v [batch, kv, keys, dim],
 * additive mask [batch, 1, 1, queries, keys] → [batch, kv, group, queries, dim]. The group is folded into the rows, so
 * that k and v are never repeated.
 */
export const attention = (q: Value, k: Value, v: Value, mask: Value, attributes: AttentionAttributes): Value =>
  apply("attention", [q, k, v, mask], { ...attributes })[0]!;

/** Rotates pairs (i, i + dim/2) of each head of x [batch, seq, heads·dim] by the angles behind cos, sin [batch·seq, dim/2]. */
export const rotary = (x: Value, cosines: Value, sines: Value, heads: number): Value =>
  apply1("rotary", [x, cosines, sines], { heads });

/** Dims of block i: opaque symbols, since floor(n·i/blocks) is no polynomial. Numbers where the length is a number. */
function blockDims(type: Type, keys: Dim, { blocks, causal }: AttentionAttributes, i: number): [Dim, Dim] {
  const queries = type.shape[3]!;
  if (blocks === 1) return [queries, keys];
  if (typeof queries === "number") {
    const end = Math.floor((queries * (i + 1)) / blocks);
    return [end - Math.floor((queries * i) / blocks), causal ? end : keys];
  }
  return [`${queries}@${i}/${blocks}`, causal ? `${queries}@0..${i}/${blocks}` : keys];
}

/** Bounds of query block i as int64 [1] values: floor(queries · i / blocks). */
function bound(emit: Emitter, queries: Dim, i: number, blocks: number): string {
  const scaled = emit.node("Mul", [emit.dim(queries), emit.constant("int64", [1], [i])]);
  return emit.node("Div", [scaled, emit.constant("int64", [1], [blocks])]);
}

interface Block {
  q: string;
  k: string;
  v: string;
  mask: string;
  rows: (x: string) => string;
  whole: boolean;
  start: string;
  end: string;
}

/** Slices for block i. `rows` cuts a [batch, kv, group, queries, ·] tensor to the block and folds the group: [batch, kv, group·rows, ·]. */
function block(emit: Emitter, inputs: readonly string[], type: Type, attributes: AttentionAttributes, i: number): Block {
  const [q, k, v, mask] = inputs as [string, string, string, string];
  const { blocks, causal } = attributes;
  const [start, end] = [bound(emit, type.shape[3]!, i, blocks), bound(emit, type.shape[3]!, i + 1, blocks)];
  const whole = blocks === 1;
  const cutKeys = (x: string, axis: number) =>
    whole || !causal || i === blocks - 1 ? x : emit.slice(x, axis, emit.constant("int64", [1], [0]), end);
  const cutRows = (x: string) => (whole ? x : emit.slice(x, 3, start, end));
  const fold = (x: string) =>
    emit.node("Reshape", [x, emit.node("Concat", [...leading(emit, type), int64(emit, -1), lastOf(emit, x)], { axis: 0 })]);
  const rows = (x: string) => fold(cutRows(x));
  return { q: rows(q), k: cutKeys(k, 2), v: cutKeys(v, 2), mask: cutKeys(cutRows(mask), 4), rows, whole, start, end };
}

const int64 = (emit: Emitter, value: number) => emit.constant("int64", [1], [value]);
const leading = (emit: Emitter, type: Type) => [emit.dim(type.shape[0]!), emit.dim(type.shape[1]!)];
/** Length of the last axis of an ONNX value. */
const lastOf = (emit: Emitter, x: string) => emit.node("Shape", [x], { start: -1 });

/** [batch, kv, group·rows, ·] → [batch, kv, group, rows, ·]. */
function unfold(emit: Emitter, x: string, type: Type): string {
  const shape = [...leading(emit, type), emit.dim(type.shape[2]!), int64(emit, -1), lastOf(emit, x)];
  return emit.node("Reshape", [x, emit.node("Concat", shape, { axis: 0 })]);
}

function lowerAttention(emit: Emitter, inputs: readonly string[], type: Type, attributes: AttentionAttributes): string[] {
  const outputs: string[] = [];
  const probabilities: string[] = [];
  for (let i = 0; i < attributes.blocks; i++) {
    const at = block(emit, inputs, type, attributes, i);
    const scores = emit.matmul(type, at.q, at.k, { transB: true, alpha: attributes.scale });
    const masked = emit.node("Add", [unfold(emit, scores, type), at.mask]);
    const p = emit.node("Softmax", [masked], { axis: -1 });
    const folded = emit.node("Reshape", [p, emit.node("Shape", [scores])]);
    probabilities.push(folded);
    outputs.push(unfold(emit, emit.matmul(type, folded, at.v, {}), type));
  }
  return [emit.concat(outputs, 3), ...probabilities];
}

function lowerAttentionGradient(emit: Emitter, names: readonly string[], type: Type, attributes: AttentionAttributes): string[] {
  const [q, k, v, output, d, ...probabilities] = names as [string, string, string, string, string, ...string[]];
  const { scale, blocks, causal } = attributes;
  // Row sums of dP ∘ P equal row sums of dO ∘ O (Dao et al. 2022, eq. 4), which are cheaper.
  const delta = emit.node("ReduceSum", [emit.node("Mul", [output, d]), int64(emit, -1)], { keepdims: 1 });
  const parts: { dq: string[]; dk: string[]; dv: string[] } = { dq: [], dk: [], dv: [] };
  for (let i = 0; i < blocks; i++) {
    const at = block(emit, [q, k, v, probabilities[i]!], type, { ...attributes, causal: false }, i);
    const keys = (x: string) =>
      causal && i < blocks - 1 ? emit.slice(x, 2, int64(emit, 0), bound(emit, type.shape[3]!, i + 1, blocks)) : x;
    const widen = (x: string) => (causal && i < blocks - 1 ? padRows(emit, x, type.shape[3]!, at.end) : x);
    const p = probabilities[i]!;
    const dRows = at.rows(d);
    const dp = emit.matmul(type, dRows, keys(v), { transB: true });
    const ds = emit.node("Mul", [p, emit.node("Sub", [dp, at.rows(delta)])]);
    parts.dq.push(unfold(emit, emit.matmul(type, ds, keys(k), { alpha: scale }), type));
    parts.dk.push(widen(emit.matmul(type, ds, at.q, { transA: true, alpha: scale })));
    parts.dv.push(widen(emit.matmul(type, p, dRows, { transA: true })));
  }
  return [emit.concat(parts.dq, 3), emit.sum(parts.dk), emit.sum(parts.dv)];
}

/** Zero rows after [batch, kv, end, dim] up to `total` keys. */
function padRows(emit: Emitter, x: string, total: Dim, end: string): string {
  const after = emit.node("Sub", [emit.dim(total), end]);
  const pads = emit.node("Concat", [int64(emit, 0), after], { axis: 0 });
  return emit.node("Pad", [x, pads, "", int64(emit, 2)]);
}

export const attentionRules = {
  attention: {
    infer: ([q, k, v, mask], attributes) => {
      expect(
        q!.shape.length === 5 && k!.shape.length === 4 && sameShape(k!.shape, v!.shape),
        "it takes q of rank 5, k and v of rank 4",
      );
      const [batch, kv, group, queries, dim] = q!.shape as [Dim, Dim, Dim, Dim, Dim];
      const keys = k!.shape[2]!;
      expect(sameShape(k!.shape, [batch, kv, keys, dim]), "k is not [batch, kv, keys, dim]");
      expect(sameShape(mask!.shape, [batch, 1, 1, queries, keys]), "the mask is not [batch, 1, 1, queries, keys]");
      expect(!attributes.causal || attributes.blocks === 1 || queries === keys, "causal blocks need as many queries as keys");
      const probabilities = Array.from({ length: attributes.blocks }, (_, i): Type => {
        const [rows, seen] = blockDims(q!, keys, attributes, i);
        return { dtype: q!.dtype, shape: [batch, kv, `${group}*${rows}`, seen] };
      });
      return [q!, ...probabilities];
    },
    vjp: ({ inputs: [q, k, v], outputs: [o, ...p], attributes }, [d]) => [
      ...apply("attentionGradient", [q!, k!, v!, o!, d!, ...p], attributes),
      null,
    ],
    lower: (emit, node, inputs) => lowerAttention(emit, inputs, node.inputs[0]!, node.attributes),
  },
  attentionGradient: {
    infer: ([q, k, v]) => [q!, k!, v!],
    vjp: null,
    lower: (emit, node, inputs) => lowerAttentionGradient(emit, inputs, node.inputs[0]!, node.attributes),
  },
  rotary: {
    infer: ([x, cosines, sines], { heads }) => {
      const [batch, seq, width] = x!.shape as [Dim, Dim, number];
      expect(
        x!.shape.length === 3 && typeof width === "number" && width % (2 * heads) === 0,
        "it takes x [batch, seq, heads·dim]",
      );
      const half = width / heads / 2;
      expect(
        cosines!.shape[1] === half && sameShape(cosines!.shape, sines!.shape),
        `the tables are not [${batch}·${seq}, ${half}]`,
      );
      return [x!];
    },
    // A rotation's transpose is the rotation back.
    vjp: ({ inputs: [, cosines, sines], attributes: { heads } }, [d]) => [rotary(d!, cosines!, neg(sines!), heads), null, null],
    lower: (emit, node, inputs) => [lowerRotary(emit, node.outputs[0]!, inputs, node.attributes.heads)],
  },
} satisfies Record<string, OpRule>;

/** ONNX Runtime's RotaryEmbedding has a float kernel only; double (for gradient proofs) is spelled out. */
function lowerRotary(emit: Emitter, type: Type, [x, cosines, sines]: readonly string[], heads: number): string {
  const [batch, seq, width] = type.shape as [Dim, Dim, number];
  const half = width / heads / 2;
  if (type.dtype === "float32") {
    const rows = emit.node("Range", [
      int64Scalar(emit, 0),
      emit.node("Squeeze", [emit.node("Mul", [emit.dim(batch), emit.dim(seq)])]),
      int64Scalar(emit, 1),
    ]);
    const places = emit.reshape(rows, [batch, seq]);
    return emit.node(
      "RotaryEmbedding",
      [x!, places, cosines!, sines!],
      { num_heads: heads, interleaved: 0 },
      { domain: "com.microsoft" },
    );
  }
  const paired = emit.reshape(x!, [batch, seq, heads, 2, half]);
  const table = (t: string) => emit.reshape(t, [batch, seq, 1, 1, half]);
  const [first, second] = [0, 1].map((i) => emit.slice(paired, 3, int64(emit, i), int64(emit, i + 1))) as [string, string];
  const times = (a: string, t: string) => emit.node("Mul", [a, table(t)]);
  const rotated = emit.concat(
    [
      emit.node("Sub", [times(first, cosines!), times(second, sines!)]),
      emit.node("Add", [times(second, cosines!), times(first, sines!)]),
    ],
    3,
  );
  return emit.reshape(rotated, type.shape);
}

const int64Scalar = (emit: Emitter, value: number) => emit.constant("int64", [], [value]);
