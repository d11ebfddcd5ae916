// The cases that the gradients of ops are proved by: inputs, and what is made of them.
import type { Value } from "../../src/graph/graph.ts";
import { attention, rotary } from "../../src/graph/ops/attention.ts";
import * as elementwise from "../../src/graph/ops/elementwise.ts";
import { cast, where } from "../../src/graph/ops/elementwise.ts";
import { embedding, gatherRows, keepTop, scatterAddRows } from "../../src/graph/ops/indexing.ts";
import { gemm, linear, matmul } from "../../src/graph/ops/linear.ts";
import { crossEntropies } from "../../src/graph/ops/loss.ts";
import type { OpName } from "../../src/graph/ops/names.ts";
import { layerNorm, rmsNorm } from "../../src/graph/ops/normalization.ts";
import { linearCrossEntropy } from "../../src/graph/ops/output-layer.ts";
import { reduceSum, softmax } from "../../src/graph/ops/reduction.ts";
import { broadcastTo, concat, reshape, slice, splitEvenly, transpose } from "../../src/graph/ops/shape.ts";
import { booleans, floats, frozen, type Given, type GradientCase, integers, symbolic } from "../helpers/gradient-check.ts";

const one = (name: string, given: Record<string, Given>, result: GradientCase["result"]): GradientCase => ({
  name,
  given,
  result,
});

/** A unary op over a vector and over a matrix of symbolic length. */
const unary = (op: (x: Value) => Value, kind?: "positive"): GradientCase[] => [
  one("vector", { x: floats([7], kind) }, ({ x }) => op(x!)),
  one("symbolic rows", { x: symbolic(floats([3, 4], kind), ["n", 4]) }, ({ x }) => op(x!)),
];

/** A binary op with equal shapes and with each way that one side is broadcast. */
const binary = (op: (a: Value, b: Value) => Value, kind?: "positive"): GradientCase[] =>
  (
    [
      ["equal shapes", [2, 3], [2, 3]],
      ["b is a row", [2, 3], [3]],
      ["a is a scalar", [], [2, 3]],
      ["b is a scalar", [2, 3], []],
      ["both are broadcast", [2, 1, 3], [4, 1]],
      ["an axis of 1 that stays", [1, 3], [1, 1]],
    ] as const
  )
    .map(([name, a, b]) => one(name, { a: floats(a), b: floats(b, kind) }, (v) => op(v["a"]!, v["b"]!)))
    .concat(
      one("symbolic rows", { a: symbolic(floats([2, 3]), ["n", 3]), b: symbolic(floats([2, 1], kind), ["n", 1]) }, (v) =>
        op(v["a"]!, v["b"]!),
      ),
    );

const yesNo = [false, true];

/** op(a)·op(b) with every flag, for leading axes `lead`. */
function products(lead: readonly number[], times: (a: Value, b: Value, flags: ProductFlags, c?: Value) => Value, withC: boolean) {
  return yesNo.flatMap((transA) =>
    yesNo.flatMap((transB) =>
      [1, 0.5].flatMap((alpha) =>
        (withC ? yesNo : [false]).map((accumulates) =>
          one(
            `[${lead}] transA ${transA} transB ${transB} alpha ${alpha}${accumulates ? " with accumulator" : ""}`,
            {
              a: floats([...lead, ...(transA ? [4, 2] : [2, 4])]),
              b: floats([...lead, ...(transB ? [3, 4] : [4, 3])]),
              ...(accumulates && { c: floats([...lead, 2, 3]) }),
            },
            ({ a, b, c }) => times(a!, b!, { transA, transB, alpha }, c),
          ),
        ),
      ),
    ),
  );
}
interface ProductFlags {
  transA: boolean;
  transB: boolean;
  alpha: number;
}

/** Additive mask [batch, 1, queries, keys]: hides what `hidden` says with the value that models use. */
function mask(batch: number, queries: number, keys: number, hidden: (b: number, i: number, j: number) => boolean) {
  const values: number[] = [];
  for (let b = 0; b < batch; b++)
    for (let i = 0; i < queries; i++) for (let j = 0; j < keys; j++) values.push(hidden(b, i, j) ? -3.4e38 : 0);
  return frozen({ dtype: "float", shape: [batch, 1, queries, keys], values });
}

/** The mask for each of `heads`, with a slope of its own over the keys (ALiBi). */
function forHeads({ shape: [batch, , rows, keys], values, ...rest }: Given, heads: number): Given {
  const size = rows! * keys!;
  const sloped = Array.from({ length: batch! * heads * size }, (_, i) => {
    const [b, h] = [Math.floor(i / (heads * size)), Math.floor(i / size) % heads];
    return values[b * size + (i % size)]! + 0.3 * (h + 1) * (i % keys!);
  });
  return { ...rest, shape: [batch!, heads, rows!, keys!], values: sloped };
}

interface AttentionShape {
  group: number;
  blocks: number;
  causal: boolean;
  seq: number;
  keys?: number;
  dims?: boolean;
  hidden?: (b: number, i: number, j: number) => boolean;
  softcap?: number;
  /** A mask for each key head. */
  perHead?: boolean;
}

function attentionCase(name: string, shape: AttentionShape): GradientCase {
  const { group, blocks, causal, seq, keys = seq, dims, hidden, softcap, perHead } = shape;
  const [batch, kv, dim] = [2, 2, 3];
  const queries = floats([batch, kv, seq * group, dim]);
  const [k, v] = [floats([batch, kv, keys, dim]), floats([batch, kv, keys, dim])];
  const shared = mask(batch, seq, keys, hidden ?? ((_, i, j) => causal && j > i));
  const bias = perHead ? forHeads(shared, kv) : shared;
  const rows = group === 1 ? "seq" : `${group}*seq`;
  const given: Record<string, Given> = dims
    ? {
        // An input that is not read by the op gives the symbol its value, as the token ids do in a model.
        ids: { ...integers([...Array(batch * seq).keys()], [batch, seq]), dims: ["batch", "seq"] },
        q: symbolic(queries, ["batch", kv, rows, dim]),
        k: symbolic(k, ["batch", kv, "seq", dim]),
        v: symbolic(v, ["batch", kv, "seq", dim]),
        mask: symbolic(bias, ["batch", bias.shape[1]!, "seq", "seq"]),
      }
    : { q: queries, k, v, mask: bias };
  return one(name, given, (x) =>
    attention(x["q"]!, x["k"]!, x["v"]!, x["mask"]!, { scale: 0.6, group, causal, blocks, softcap }),
  );
}

/** Cosines and sines of angles that are not small, [tokens, half]. */
function rotaryCase(
  name: string,
  batch: number,
  seq: number,
  heads: number,
  half: number,
  dims = false,
  still = 0,
): GradientCase {
  const angles = [...Array(batch * seq * half).keys()].map((i) => 0.7 * i);
  const tableOf = (f: (angle: number) => number): Given =>
    frozen({ dtype: "float", shape: [batch * seq, half], values: angles.map(f) });
  const width = heads * (2 * half + still);
  const [x, cosines, sines] = [floats([batch, seq, width]), tableOf(Math.cos), tableOf(Math.sin)];
  const given = dims
    ? {
        x: symbolic(x, ["batch", "seq", width]),
        cosines: symbolic(cosines, ["batch*seq", half]),
        sines: symbolic(sines, ["batch*seq", half]),
      }
    : { x, cosines, sines };
  return one(name, given, (v) => rotary(v["x"]!, v["cosines"]!, v["sines"]!, heads));
}

const fusedLoss = (rows: number, chunks: number, vocabChunks = 1, softcap?: number): GradientCase =>
  one(
    `${rows} rows in ${chunks} chunks, 5 words in ${vocabChunks}${softcap ? `, logits up to ${softcap}` : ""}`,
    {
      x: symbolic(floats([rows, 3]), ["n", 3]),
      w: frozen(floats([5, 3])),
      labels: symbolic(integers([4, 0, 2, 2, 1, 3, 0].slice(0, rows)), ["n"]),
    },
    (v) => linearCrossEntropy(v["x"]!, v["w"]!, v["labels"]!, { path: "lm_head", chunks, vocabChunks, softcap }),
  );

/** Two logits more than W has rows, which are some rows' labels. */
const fusedLossOfTwo = (rows: number, chunks: number, vocabChunks = 1): GradientCase =>
  one(
    `${rows} rows in ${chunks} chunks, 5 words in ${vocabChunks}, with further logits`,
    {
      x: symbolic(floats([rows, 3]), ["n", 3]),
      w: frozen(floats([5, 3])),
      labels: symbolic(integers([4, 6, 2, 5, 1, 6, 0].slice(0, rows)), ["n"]),
      further: symbolic(floats([rows, 2]), ["n", 2]),
    },
    (v) => linearCrossEntropy(v["x"]!, v["w"]!, v["labels"]!, { path: "lm_head", chunks, vocabChunks }, v["further"]!),
  );

/** Two further logits in the place of two rows of W, which are no row's label. */
const fusedLossWithout = (chunks: number, vocabChunks: number, softcap?: number): GradientCase =>
  one(
    `${chunks} chunks, 5 words in ${vocabChunks}, two of them replaced${softcap ? ", capped" : ""}`,
    {
      x: symbolic(floats([6, 3]), ["n", 3]),
      w: frozen(floats([5, 3])),
      labels: symbolic(integers([4, 6, 2, 5, 0, 6]), ["n"]),
      further: symbolic(floats([6, 2]), ["n", 2]),
    },
    (v) => {
      const attributes = { path: "lm_head", chunks, vocabChunks, softcap, without: [1, 3] };
      return linearCrossEntropy(v["x"]!, v["w"]!, v["labels"]!, attributes, v["further"]!);
    },
  );

export const proofs: Partial<Record<OpName, GradientCase[]>> = {
  add: binary(elementwise.add),
  sub: binary(elementwise.sub),
  mul: [...binary(elementwise.mul), one("a value by itself", { x: floats([4]) }, ({ x }) => elementwise.mul(x!, x!))],
  div: binary(elementwise.div, "positive"),
  neg: unary(elementwise.neg),
  exp: unary(elementwise.exp),
  log: unary(elementwise.log, "positive"),
  sqrt: unary(elementwise.sqrt, "positive"),
  sin: unary(elementwise.sin),
  cos: unary(elementwise.cos),
  tanh: unary(elementwise.tanh),
  erf: unary(elementwise.erf),
  gelu: (["none", "tanh"] as const).flatMap((approximate) => [
    ...unary((x) => elementwise.gelu(x, approximate)),
    one(`far from 0, ${approximate}`, { x: { dtype: "float", shape: [4], values: [-30, -4, 4, 30] } }, ({ x }) =>
      elementwise.gelu(x!, approximate),
    ),
  ]),
  sigmoid: unary(elementwise.sigmoid),
  silu: [
    ...unary(elementwise.silu),
    one("far from 0", { x: { dtype: "float", shape: [4], values: [-30, -8, 8, 30] } }, ({ x }) => elementwise.silu(x!)),
  ],
  where: [
    one("equal shapes", { c: booleans([2, 3]), a: floats([2, 3]), b: floats([2, 3]) }, (v) => where(v["c"]!, v["a"]!, v["b"]!)),
    one("scalars", { c: booleans([2, 3]), a: floats([]), b: floats([]) }, (v) => where(v["c"]!, v["a"]!, v["b"]!)),
    one("condition is broadcast", { c: booleans([2, 1]), a: floats([2, 3]), b: floats([3]) }, (v) =>
      where(v["c"]!, v["a"]!, v["b"]!),
    ),
  ],
  cast: [one("float32 to float64", { x: floats([5]) }, ({ x }) => cast(x!, "float64"))],
  reduceSum: [
    one("first axis", { x: floats([2, 3]) }, ({ x }) => reduceSum(x!, [0])),
    one("two axes", { x: floats([2, 3, 2]) }, ({ x }) => reduceSum(x!, [0, 2])),
    one("symbolic axis", { x: symbolic(floats([3, 2]), ["n", 2]) }, ({ x }) => reduceSum(x!, [0])),
  ],
  softmax: [
    one("matrix", { x: floats([2, 5]) }, ({ x }) => softmax(x!)),
    one("rank 3, symbolic", { x: symbolic(floats([2, 2, 3]), [2, "n", 3]) }, ({ x }) => softmax(x!)),
  ],
  reshape: [
    one("fixed", { x: floats([2, 6]) }, ({ x }) => reshape(x!, [3, 4])),
    one("to a scalar", { x: floats([1, 1]) }, ({ x }) => reshape(x!, [])),
    one("symbolic", { x: symbolic(floats([2, 6]), ["n", 6]) }, ({ x }) => reshape(x!, [x!.shape[0]!, 3, 2])),
  ],
  transpose: [
    one("matrix", { x: floats([2, 3]) }, ({ x }) => transpose(x!, [1, 0])),
    one("a cycle of axes", { x: floats([2, 3, 4]) }, ({ x }) => transpose(x!, [2, 0, 1])),
    one("rank 4, symbolic", { x: symbolic(floats([2, 3, 2, 2]), ["n", 3, 2, 2]) }, ({ x }) => transpose(x!, [0, 2, 1, 3])),
  ],
  concat: [
    one("rows", { a: floats([2, 3]), b: floats([1, 3]) }, (v) => concat([v["a"]!, v["b"]!], 0)),
    one("columns, one part twice", { a: symbolic(floats([2, 3]), ["n", 3]), b: symbolic(floats([2, 1]), ["n", 1]) }, (v) =>
      concat([v["a"]!, v["b"]!, v["a"]!], 1),
    ),
  ],
  slice: [
    one("the beginning", { x: floats([4, 2]) }, ({ x }) => slice(x!, 0, 0, 2)),
    one("the middle", { x: symbolic(floats([2, 5]), ["n", 5]) }, ({ x }) => slice(x!, 1, 1, 4)),
    one("the end", { x: floats([2, 5, 2]) }, ({ x }) => slice(x!, 1, 3, 5)),
    one("all of it", { x: floats([3]) }, ({ x }) => slice(x!, 0, 0, 3)),
    one("two that overlap", { x: floats([5]) }, ({ x }) => elementwise.mul(slice(x!, 0, 0, 4), slice(x!, 0, 1, 5))),
  ],
  split: [
    one("all parts", { x: symbolic(floats([6, 2]), [6, "n"]) }, ({ x }) => {
      const [a, b, c] = splitEvenly(x!, 0, 3);
      return elementwise.mul(elementwise.add(a!, b!), c!);
    }),
    one("one part", { x: floats([2, 4]) }, ({ x }) => splitEvenly(x!, 1, 2)[1]!),
  ],
  broadcastTo: [
    one("a scalar", { x: floats([]) }, ({ x }) => broadcastTo(x!, [2, 3])),
    one("an inner axis", { x: floats([2, 1, 3]) }, ({ x }) => broadcastTo(x!, [2, 4, 3])),
    one("new axes before", { x: floats([3]) }, ({ x }) => broadcastTo(x!, [2, 2, 3])),
    one("a symbolic axis", { x: floats([1, 3]), y: symbolic(floats([4, 3]), ["n", 3]) }, ({ x, y }) =>
      elementwise.mul(broadcastTo(x!, y!.shape), y!),
    ),
  ],
  embedding: [
    one("repeated ids", { ids: integers([3, 0, 3, 3]), table: floats([5, 2]) }, (v) =>
      embedding(v["ids"]!, v["table"]!, "embed"),
    ),
    one(
      "a rectangle of ids, symbolic",
      { ids: symbolic(integers([1, 2, 2, 0, 1, 1], [2, 3]), ["batch", "seq"]), table: floats([4, 3]) },
      (v) => embedding(v["ids"]!, v["table"]!, "embed"),
    ),
  ],
  gatherRows: [
    one("repeated and left out", { x: floats([4, 3]), at: integers([2, 0, 2]) }, (v) => gatherRows(v["x"]!, v["at"]!)),
    one("symbolic", { x: symbolic(floats([3, 2]), ["n", 2]), at: symbolic(integers([2, 2]), ["r"]) }, (v) =>
      gatherRows(v["x"]!, v["at"]!),
    ),
  ],
  scatterAddRows: [
    one("repeated and left out", { d: floats([4, 3]), at: integers([1, 3, 1, 1]) }, (v) => scatterAddRows(v["d"]!, v["at"]!, 5)),
    one("symbolic", { d: symbolic(floats([3, 2]), ["r", 2]), at: symbolic(integers([0, 2, 0]), ["r"]) }, (v) =>
      scatterAddRows(v["d"]!, v["at"]!, 3),
    ),
  ],
  linear: [
    one("without bias", { x: symbolic(floats([3, 4]), ["n", 4]), w: floats([2, 4]) }, (v) => linear(v["x"]!, v["w"]!, "layer")),
    one("with bias", { x: floats([3, 4]), w: floats([2, 4]), bias: floats([2]) }, (v) =>
      linear(v["x"]!, v["w"]!, "layer", v["bias"]!),
    ),
  ],
  gemm: [
    ...products([], gemm, true),
    // Beyond 64 columns the other order of the gradient's product is used.
    one("wide a, transB", { a: floats([3, 65]), b: floats([2, 65]) }, (v) =>
      gemm(v["a"]!, v["b"]!, { transB: true, alpha: 0.5 }),
    ),
    one("wide b", { a: floats([3, 2]), b: floats([2, 65]) }, (v) => gemm(v["a"]!, v["b"]!, { alpha: 0.5 })),
    one(
      "symbolic rows",
      { a: symbolic(floats([3, 4]), ["n", 4]), b: floats([2, 4]), c: symbolic(floats([3, 2]), ["n", 2]) },
      (v) => gemm(v["a"]!, v["b"]!, { transB: true }, v["c"]!),
    ),
  ],
  matmul: [...products([], matmul, false), ...products([2], matmul, false), ...products([2, 2], matmul, false)],
  rmsNorm: [
    one("matrix", { x: floats([3, 5]), w: floats([5]) }, (v) => rmsNorm(v["x"]!, v["w"]!, 1e-5)),
    one("rank 3, an epsilon that counts", { x: symbolic(floats([2, 2, 4]), ["n", 2, 4]), w: floats([4]) }, (v) =>
      rmsNorm(v["x"]!, v["w"]!, 0.3),
    ),
  ],
  layerNorm: [
    one("matrix", { x: floats([3, 5]), w: floats([5]), b: floats([5]) }, (v) => layerNorm(v["x"]!, v["w"]!, v["b"]!, 1e-5)),
    one("rank 3, an epsilon that counts", { x: symbolic(floats([2, 2, 4]), ["n", 2, 4]), w: floats([4]), b: floats([4]) }, (v) =>
      layerNorm(v["x"]!, v["w"]!, v["b"]!, 0.3),
    ),
  ],
  attention: [
    attentionCase("one block", { group: 1, blocks: 1, causal: true, seq: 4 }),
    attentionCase("group 2", { group: 2, blocks: 1, causal: true, seq: 3 }),
    attentionCase("2 blocks, odd length", { group: 1, blocks: 2, causal: true, seq: 5 }),
    attentionCase("2 blocks, group 2, odd length, symbolic", { group: 2, blocks: 2, causal: true, seq: 5, dims: true }),
    attentionCase("3 blocks, group 2, length 7", { group: 2, blocks: 3, causal: true, seq: 7, dims: true }),
    attentionCase("more blocks than queries", { group: 1, blocks: 3, causal: true, seq: 2, dims: true }),
    attentionCase("not causal, 2 blocks", { group: 2, blocks: 2, causal: false, seq: 3 }),
    attentionCase("more keys than queries", { group: 2, blocks: 1, causal: false, seq: 2, keys: 5 }),
    attentionCase("softcap", { group: 2, blocks: 1, causal: true, seq: 4, softcap: 0.8 }),
    attentionCase("softcap, 2 blocks, symbolic", { group: 1, blocks: 2, causal: true, seq: 5, dims: true, softcap: 2 }),
    attentionCase("a mask for each head, 2 blocks", { group: 2, blocks: 2, causal: true, seq: 5, perHead: true }),
    attentionCase("a mask for each head, symbolic", { group: 1, blocks: 2, causal: true, seq: 5, perHead: true, dims: true }),
    attentionCase("padding and segments", {
      group: 2,
      blocks: 2,
      causal: true,
      seq: 5,
      dims: true,
      // Row 0: two segments, from tokens 0 and 2. Row 1: key 0 is hidden from the others. A query that saw nothing at all
      // would have a rule's gradient, as in PyTorch, but no difference: its scores vanish beside the mask.
      hidden: (b, i, j) => j > i || (b === 0 ? i < 2 !== j < 2 : j === 0 && i > 0),
    }),
  ],
  keepTop: [
    one("2 of 4", { x: floats([5, 4]) }, ({ x }) => keepTop(x!, 2).kept),
    one("1 of 3, symbolic", { x: symbolic(floats([4, 3]), ["n", 3]) }, ({ x }) => keepTop(x!, 1).kept),
    one("all", { x: floats([2, 3]) }, ({ x }) => keepTop(x!, 3).kept),
  ],
  rotary: [
    rotaryCase("one head", 1, 3, 1, 2),
    rotaryCase("3 heads, 2 rows", 2, 2, 3, 2),
    rotaryCase("symbolic", 2, 3, 2, 1, true),
    rotaryCase("3 of 7 dimensions stay", 2, 2, 2, 2, false, 3),
  ],
  crossEntropy: [
    one("fixed", { logits: floats([3, 4]), labels: integers([2, 0, 2]) }, (v) => crossEntropies(v["logits"]!, v["labels"]!)),
    one("symbolic", { logits: symbolic(floats([2, 5]), ["n", 5]), labels: symbolic(integers([4, 1]), ["n"]) }, (v) =>
      crossEntropies(v["logits"]!, v["labels"]!),
    ),
  ],
  linearCrossEntropy: [
    fusedLoss(4, 1),
    fusedLoss(7, 3),
    fusedLoss(2, 3),
    fusedLoss(1, 4),
    fusedLoss(7, 1, 2),
    fusedLoss(7, 3, 3),
    fusedLoss(1, 2, 5),
    fusedLoss(5, 2, 1, 1.5),
    fusedLoss(5, 2, 2, 1.5),
    fusedLossOfTwo(7, 1),
    fusedLossOfTwo(5, 3),
    fusedLossOfTwo(7, 2, 3),
    fusedLossWithout(1, 1),
    fusedLossWithout(2, 3),
    fusedLossWithout(2, 5, 1.5),
    fusedLossOfTwo(1, 2),
  ],
};
