// Scaled dot-product attention (Vaswani et al. 2017) and rotary positions (Su et al. 2021) as ops.
// Query rows go in blocks: a causal block meets only the keys up to its end, and its scores stay in cache.

import { type Dim, divideDim, mulDims, type Shape, sameShape } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { apply, apply1, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { neg } from "./elementwise.ts";

interface AttentionAttributes {
  /** Factor of the scores before the mask. */
  scale: number;
  /** Query heads that read one key head; their rows lie beside each other. */
  group: number;
  /** Whether the mask hides every key after its query, so that early query blocks can skip late keys. */
  causal: boolean;
  /** Number of query blocks. */
  blocks: number;
  /** Scores become softcap · tanh(score / softcap) before the mask (Gemma 2). */
  softcap?: number;
}

/**
 * softmax(scale · q kᵀ + mask) v with grouped heads: q [batch, kv, queries·group, dim], k and v [batch, kv, keys, dim],
 * additive mask [batch, 1 or kv, queries·group, keys] → the shape of q. The group is folded into the rows, so that k and v are
 * never repeated and dk, dv never reduced.
 */
export const attention = (q: Value, k: Value, v: Value, mask: Value, attributes: AttentionAttributes): Value =>
  apply("attention", [q, k, v, mask], { ...attributes })[0]!;

/**
 * Rotates pairs (i, i + r/2) of the first r dimensions of each head of x [batch, seq, heads·dim] by the angles behind
 * cos and sin [batch·seq, r/2]; the other dimensions stay.
 */
export const rotary = (x: Value, cosines: Value, sines: Value, heads: number): Value =>
  apply1("rotary", [x, cosines, sines], { heads });

/** [rows, keys] of block i. Opaque symbols where the length is one, since floor(n·i/blocks) is no polynomial. */
function blockDims(rows: Dim, keys: Dim, { blocks, group, causal }: AttentionAttributes, i: number): [Dim, Dim] {
  if (blocks === 1) return [rows, keys];
  if (typeof rows === "number" && typeof keys === "number") {
    const [start, end] = [i, i + 1].map((k) => Math.floor(((rows / group) * k) / blocks)) as [number, number];
    return [(end - start) * group, causal ? end : keys];
  }
  return [`${rows}@${i}/${blocks}`, causal ? `${keys}@0..${i}/${blocks}` : keys];
}

/** How one block cuts rows (of q and what has its rows) and keys (of k, v), and widens what is cut by keys with zeros. */
interface Cut {
  rows(x: string): string;
  keys(x: string, axis: number): string;
  widen(x: string): string;
}

/** The cuts of all blocks: rows [queries·i/blocks, queries·(i+1)/blocks), all of them or, if causal, keys up to that end. */
function cuts(emit: Emitter, keyType: Type, rowType: Type, { blocks, group, causal }: AttentionAttributes): Cut[] {
  const queries = divideDim(rowType.shape[2]!, group);
  const bound = (i: number) => emit.shared("Div", [emit.shared("Mul", [emit.dim(queries), emit.int64(i)]), emit.int64(blocks)]);
  const rowBound = (i: number) => emit.shared("Mul", [bound(i), emit.int64(group)]);
  return Array.from({ length: blocks }, (_, i): Cut => {
    const narrow = causal && i < blocks - 1;
    return {
      rows: (x) => (blocks === 1 ? x : emit.slice(x, 2, rowBound(i), rowBound(i + 1))),
      keys: (x, axis) => (narrow ? emit.slice(x, axis, emit.int64(0), bound(i + 1)) : x),
      widen: (x) => {
        if (!narrow) return x;
        const missing = emit.shared("Sub", [emit.dim(keyType.shape[2]!), bound(i + 1)]);
        return emit.node("Pad", [x, emit.shared("Concat", [emit.int64(0), missing], { axis: 0 }), "", emit.int64(2)]);
      },
    };
  });
}

function lowerAttention(emit: Emitter, node: Node, [q, k, v, mask]: readonly string[], attributes: AttentionAttributes) {
  const type = node.inputs[0]!;
  const { scale, softcap } = attributes;
  const blocks = cuts(emit, node.inputs[1]!, type, attributes).map((cut) => {
    const alpha = softcap ? scale / softcap : scale;
    const scores = emit.matmul(type, cut.rows(q!), cut.keys(k!, 2), { transB: true, alpha });
    const capped = softcap ? [emit.node("Tanh", [scores])] : [];
    const seen = capped.length ? emit.node("Mul", [capped[0]!, emit.constant(type.dtype, [], [softcap!])]) : scores;
    const p = emit.node("Softmax", [emit.node("Add", [seen, cut.keys(cut.rows(mask!), 3)])], { axis: -1 });
    return { p, capped, output: emit.matmul(type, p, cut.keys(v!, 2), {}) };
  });
  const outputs = blocks.map(({ output }) => output);
  return [emit.concat(outputs, 2), ...blocks.map(({ p }) => p), ...blocks.flatMap(({ capped }) => capped)];
}

function lowerAttentionGradient(emit: Emitter, node: Node, names: readonly string[], attributes: AttentionAttributes): string[] {
  const [q, k, v, output, d, ...saved] = names as [string, string, string, string, string, ...string[]];
  const type = node.inputs[0]!;
  const { scale: alpha, softcap, blocks: count } = attributes;
  const one = emit.constant(type.dtype, [], [1]);
  // Row sums of dP ∘ P equal row sums of dO ∘ O (Dao et al. 2022, eq. 4), which are cheaper.
  const delta = emit.node("ReduceSum", [emit.node("Mul", [output, d]), emit.int64(3)], { keepdims: 1 });
  const blocks = cuts(emit, node.inputs[1]!, type, attributes).map((cut, i) => {
    const p = saved[i]!;
    const [qRows, dRows, keys] = [cut.rows(q), cut.rows(d), cut.keys(k, 2)];
    const dp = emit.matmul(type, dRows, cut.keys(v, 2), { transB: true });
    const beforeMask = emit.node("Mul", [p, emit.node("Sub", [dp, cut.rows(delta)])]);
    const t = saved[count + i]; // tanh(score / softcap)
    const ds = softcap ? emit.node("Mul", [beforeMask, emit.node("Sub", [one, emit.node("Mul", [t!, t!])])]) : beforeMask;
    return {
      dq: emit.matmul(type, ds, keys, { alpha }),
      dk: cut.widen(emit.matmul(type, ds, qRows, { transA: true, alpha })),
      dv: cut.widen(emit.matmul(type, p, dRows, { transA: true })),
    };
  });
  const all = (name: "dq" | "dk" | "dv") => blocks.map((block) => block[name]);
  return [emit.concat(all("dq"), 2), emit.sum(all("dk")), emit.sum(all("dv"))];
}

export const attentionRules = {
  attention: {
    infer: ([q, k, v, mask], attributes) => {
      expect(q!.shape.length === 4 && k!.shape.length === 4 && sameShape(k!.shape, v!.shape), "it takes q, k and v of rank 4");
      const [batch, kv, rows, dim] = q!.shape as [Dim, Dim, Dim, Dim];
      const keys = k!.shape[2]!;
      expect(sameShape(k!.shape, [batch, kv, keys, dim]), "k is not [batch, kv, keys, dim]");
      const masks = mask!.shape[1] === kv ? kv : 1;
      expect(sameShape(mask!.shape, [batch, masks, rows, keys]), "the mask is not [batch, 1 or kv, rows, keys]");
      const square = mulDims(keys, attributes.group) === rows;
      expect(!attributes.causal || attributes.blocks === 1 || square, "causal blocks need as many queries as keys");
      const probabilities = Array.from({ length: attributes.blocks }, (_, i): Type => {
        return { dtype: q!.dtype, shape: [batch, kv, ...blockDims(rows, keys, attributes, i)] };
      });
      return [q!, ...probabilities, ...(attributes.softcap ? probabilities : [])];
    },
    vjp: ({ inputs: [q, k, v], outputs: [o, ...saved], attributes }, [d]) => [
      ...apply("attentionGradient", [q!, k!, v!, o!, d!, ...saved], attributes),
      null,
    ],
    lower: (emit, node, inputs) => lowerAttention(emit, node, inputs, node.attributes),
  },
  attentionGradient: {
    infer: ([q, k, v]) => [q!, k!, v!],
    vjp: null,
    lower: (emit, node, inputs) => lowerAttentionGradient(emit, node, inputs, node.attributes),
  },
  rotary: {
    infer: ([x, cosines, sines], { heads }) => {
      const [batch, seq, width] = x!.shape as [Dim, Dim, number];
      expect(x!.shape.length === 3 && typeof width === "number" && width % heads === 0, "it takes x [batch, seq, heads·dim]");
      const table: Shape = [mulDims(batch, seq), cosines!.shape[1]!];
      expect(
        sameShape(cosines!.shape, table) && sameShape(sines!.shape, table) && 2 * Number(table[1]) <= width / heads,
        `the tables are not [${table[0]}, at most ${width / heads / 2}]`,
      );
      return [x!];
    },
    // A rotation's transpose is the rotation back.
    vjp: ({ inputs: [, cosines, sines], attributes: { heads } }, [d]) => [rotary(d!, cosines!, neg(sines!), heads), null, null],
    lower: (emit, node, inputs) => [lowerRotary(emit, node, inputs, node.attributes.heads)],
  },
} satisfies Record<string, OpRule>;

/** ONNX Runtime's RotaryEmbedding has a float kernel only; double (for gradient proofs) is spelled out. */
function lowerRotary(emit: Emitter, node: Node, [x, cosines, sines]: readonly string[], heads: number): string {
  const type = node.outputs[0]!;
  const [batch, seq, width] = type.shape as [Dim, Dim, number];
  const dim = width / heads;
  const half = Number(node.inputs[1]!.shape[1]);
  if (type.dtype === "float32") {
    const tokens = emit.shared("Squeeze", [emit.dim(mulDims(batch, seq))]);
    const rows = emit.shared("Range", [emit.constant("int64", [], [0]), tokens, emit.constant("int64", [], [1])]);
    const places = emit.shared("Reshape", [rows, emit.shape([batch, seq])]);
    const attributes = { num_heads: heads, interleaved: 0, rotary_embedding_dim: 2 * half === dim ? 0 : 2 * half };
    return emit.node("RotaryEmbedding", [x!, places, cosines!, sines!], attributes);
  }
  const byHead = emit.reshape(x!, [batch, seq, heads, dim]);
  const part = (start: number, end: number) => emit.slice(byHead, 3, emit.int64(start), emit.int64(end));
  const table = (t: string) => emit.reshape(t, [batch, seq, 1, half]);
  const [first, second] = [part(0, half), part(half, 2 * half)];
  const times = (a: string, t: string) => emit.node("Mul", [a, table(t)]);
  const rotated = [
    emit.node("Sub", [times(first, cosines!), times(second, sines!)]),
    emit.node("Add", [times(second, cosines!), times(first, sines!)]),
  ];
  return emit.reshape(emit.concat([...rotated, ...(2 * half < dim ? [part(2 * half, dim)] : [])], 3), type.shape);
}
