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
 * additive mask [batch, 1 or kv, queries, keys] → the shape of q. The group is folded into the rows, so that k and v are never
 * repeated and dk, dv never reduced.
 */
export const attention = (q: Value, k: Value, v: Value, mask: Value, attributes: AttentionAttributes): Value =>
  apply1("attention", [q, k, v, mask], { ...attributes });

/**
 * Rotates pairs (i, i + r/2) of the first r dimensions of each head of x [batch, seq, heads·dim] by the angles behind
 * cos and sin [batch·seq, r/2]; the other dimensions stay.
 */
export const rotary = (x: Value, cosines: Value, sines: Value, heads: number): Value =>
  apply1("rotary", [x, cosines, sines], { heads });

/** One block of queries. */
interface Block {
  /** Its rows of q, or of what has the rows of q. Waits, as the others do, until the zero `after` is known. */
  rows(x: string, after?: string): string;
  /** The keys that it meets, of k or v. */
  keys(x: string, after?: string): string;
  /** Fills up what has the keys of the block before with zeros. */
  widen(x: string): string;
  /** Its probabilities, [batch, kv, rows, keys]; with softcap also tanh(score / softcap). */
  probabilities(q: string, k: string): { p: string; capped?: string };
}

/** The blocks: rows [queries·i/blocks, queries·(i+1)/blocks) with all keys or, if causal, those up to that end. */
function blocksOf(emit: Emitter, node: Node, mask: string, attributes: AttentionAttributes): Block[] {
  const { blocks, group, causal, scale, softcap } = attributes;
  const [type, { shape: keyShape }, , maskType] = node.inputs as readonly Type[] as [Type, Type, Type, Type];
  const [batch, kv] = type.shape as [Dim, Dim];
  const [queries, keys] = [emit.dim(divideDim(type.shape[2]!, group)), emit.dim(keyShape[2]!)];
  const int = (op: string, a: string, b: string) => emit.shared(op, [a, b]);
  const bound = (i: number) => int("Div", int("Mul", queries, emit.int64(i)), emit.int64(blocks));
  const rowBound = (i: number) => int("Mul", bound(i), emit.int64(group));
  const keysOf = (i: number) => (causal && i < blocks - 1 ? bound(i + 1) : keys);
  const from = (start: string, after?: string) => (after ? int("Add", start, after) : start);
  const shape = (...dims: string[]) => emit.shared("Concat", dims, { axis: 0 });
  const reshape = (x: string, dims: string) => emit.node("Reshape", [x, dims], { allowzero: 1 });
  // One row of the mask serves a group of rows: [batch, 1 or kv, queries, 1, keys].
  const [maskBatch, masks, maskQueries, maskKeys] = maskType.shape as [Dim, Dim, Dim, Dim];
  const grouped = group === 1 ? mask : emit.reshape(mask, [maskBatch, masks, maskQueries, 1, maskKeys]);

  return Array.from({ length: blocks }, (_, i): Block => {
    const narrow = causal && i < blocks - 1;
    const rowsOfMask = blocks === 1 ? grouped : emit.slice(grouped, 2, bound(i), bound(i + 1));
    const seen = narrow ? emit.slice(rowsOfMask, group === 1 ? 3 : 4, emit.int64(0), bound(i + 1)) : rowsOfMask;
    const length = int("Sub", bound(i + 1), bound(i));
    const heads = [emit.dim(batch), emit.dim(kv)];
    const split = shape(...heads, length, emit.int64(group), keysOf(i));
    const joined = shape(...heads, int("Mul", length, emit.int64(group)), keysOf(i));
    return {
      rows: (x, after) => (blocks === 1 && !after ? x : emit.slice(x, 2, from(rowBound(i), after), rowBound(i + 1))),
      keys: (x, after) => (narrow ? emit.slice(x, 2, from(emit.int64(0), after), bound(i + 1)) : x),
      widen: (x) => {
        if (!causal) return x;
        const missing = int("Sub", keysOf(i), keysOf(i - 1));
        return emit.node("Pad", [x, shape(emit.int64(0), missing), "", emit.int64(2)]);
      },
      probabilities: (q, k) => {
        const scores = emit.matmul(type, q, k, { transB: true, alpha: softcap ? scale / softcap : scale });
        const capped = softcap ? emit.node("Tanh", [scores]) : undefined;
        const free = capped ? emit.node("Mul", [capped, emit.constant(type.dtype, [], [softcap!])]) : scores;
        const masked = emit.node("Add", [group === 1 ? free : reshape(free, split), seen]);
        const p = emit.node("Softmax", [masked], { axis: -1 });
        return { p: group === 1 ? p : reshape(p, joined), capped };
      },
    };
  });
}

function lowerAttention(emit: Emitter, node: Node, [q, k, v, mask]: readonly string[], attributes: AttentionAttributes): string {
  const outputs = blocksOf(emit, node, mask!, attributes).map((block) => {
    const { p } = block.probabilities(block.rows(q!), block.keys(k!));
    return emit.matmul(node.inputs[0]!, p, block.keys(v!), {});
  });
  return emit.concat(outputs, 2);
}

/** A zero that is known only after `values` are, which begin with the axis `batch`: what needs it runs later. */
function zeroAfter(emit: Emitter, values: readonly string[], batch: Dim): string {
  const sizes = values.map((value) => emit.node("Shape", [value], { start: 0, end: 1 }));
  return emit.node("Sub", [sizes.length === 1 ? sizes[0]! : emit.node("Max", sizes), emit.dim(batch)]);
}

/**
 * Computes the probabilities again, since they are too large to be kept (Dao 2023): block by block, the first after `d`, each after
 * the one before, so that one block's are alive at a time.
 */
function lowerAttentionGradient(emit: Emitter, node: Node, names: readonly string[], attributes: AttentionAttributes): string[] {
  const [q, k, v, mask, output, d] = names as [string, string, string, string, string, string];
  const type = node.inputs[0]!;
  const { scale: alpha } = attributes;
  const one = emit.constant(type.dtype, [], [1]);
  // Row sums of dP ∘ P equal row sums of dO ∘ O (Dao et al. 2022, eq. 4), which are cheaper.
  const delta = emit.node("ReduceSum", [emit.node("Mul", [output, d]), emit.int64(3)], { keepdims: 1 });
  const dq: string[] = [];
  let [dk, dv] = ["", ""];
  for (const block of blocksOf(emit, node, mask, attributes)) {
    const after = zeroAfter(emit, dq.length ? [dq.at(-1)!, dk, dv] : [d], type.shape[0]!);
    const [qRows, dRows, keys] = [block.rows(q, after), block.rows(d, after), block.keys(k, after)];
    const { p, capped } = block.probabilities(qRows, keys);
    const dp = emit.matmul(type, dRows, block.keys(v, after), { transB: true });
    const beforeMask = emit.node("Mul", [p, emit.node("Sub", [dp, block.rows(delta, after)])]);
    const ds = capped ? emit.node("Mul", [beforeMask, emit.node("Sub", [one, emit.node("Mul", [capped, capped])])]) : beforeMask;
    const add = (sum: string, part: string) => (sum ? emit.node("Add", [block.widen(sum), part]) : part);
    dk = add(dk, emit.matmul(type, ds, qRows, { transA: true, alpha }));
    dv = add(dv, emit.matmul(type, p, dRows, { transA: true }));
    dq.push(emit.matmul(type, ds, keys, { alpha }));
  }
  return [emit.concat(dq, 2), dk, dv];
}

export const attentionRules = {
  attention: {
    infer: ([q, k, v, mask], attributes) => {
      expect(q!.shape.length === 4 && k!.shape.length === 4 && sameShape(k!.shape, v!.shape), "it takes q, k and v of rank 4");
      const [batch, kv, rows, dim] = q!.shape as [Dim, Dim, Dim, Dim];
      const keys = k!.shape[2]!;
      expect(sameShape(k!.shape, [batch, kv, keys, dim]), "k is not [batch, kv, keys, dim]");
      const masks = mask!.shape[1] === kv ? kv : 1;
      const queries = divideDim(rows, attributes.group);
      expect(sameShape(mask!.shape, [batch, masks, queries, keys]), "the mask is not [batch, 1 or kv, queries, keys]");
      expect(!attributes.causal || attributes.blocks === 1 || keys === queries, "causal blocks need as many queries as keys");
      return [q!];
    },
    vjp: ({ inputs: [q, k, v, mask], outputs: [o], attributes }, [d]) => [
      ...apply("attentionGradient", [q!, k!, v!, mask!, o!, d!], attributes),
      null,
    ],
    lower: (emit, node, inputs) => [lowerAttention(emit, node, inputs, node.attributes)],
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
