// Every row of the operator table: its gradient proved by finite differences, or an entry here that says why it has none.
import assert from "node:assert/strict";
import { test } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import { gradients } from "../../src/graph/autodiff.ts";
import { apply, apply1, topological, type Value } from "../../src/graph/graph.ts";
import * as elementwise from "../../src/graph/ops/elementwise.ts";
import { cast, where } from "../../src/graph/ops/elementwise.ts";
import { embedding, lastOf, rowsWhere } from "../../src/graph/ops/indexing.ts";
import { constant, input, iota, weight } from "../../src/graph/ops/leaves.ts";
import type { OpName } from "../../src/graph/ops/names.ts";
import { packedLinear } from "../../src/graph/ops/packed.ts";
import { reduceMax, reduceSum } from "../../src/graph/ops/reduction.ts";
import { columnsAt, integerProduct, quantiseRows, rotate, standingOut, withoutColumns } from "../../src/graph/ops/rotated.ts";
import { reshape, window } from "../../src/graph/ops/shape.ts";
import { stored, widened } from "../../src/graph/ops/stored.ts";
import { table } from "../../src/graph/ops/table.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import { noWeights } from "../../src/runtime/session.ts";
import { int32 } from "../../src/tensor.ts";
import { type Bounds, proveGradient } from "../helpers/gradient-check.ts";
import { proofs } from "./gradient-cases.ts";

const float64: Bounds = { eps: 1e-6, atol: 1e-5, rtol: 1e-3 };

/** Ops that are proved in float32, with bounds of their own, and why. */
const inFloat32: Partial<Record<OpName, Bounds & { why: string }>> = {
  cast: { eps: 1e-2, atol: 1e-5, rtol: 1e-5, why: "one side of it is float32" },
  erf: { eps: 1e-2, atol: 1e-3, rtol: 1e-3, why: "the kernel is for float32 only" },
  gelu: { eps: 1e-2, atol: 1e-3, rtol: 1e-3, why: "the kernel is for float32 only" },
  layerNorm: { eps: 1e-2, atol: 2e-3, rtol: 2e-3, why: "the kernel returns mean and 1/deviation as float32, in double too" },
  rmsNorm: { eps: 1e-2, atol: 2e-3, rtol: 2e-3, why: "the kernel returns 1/rms as float32, in double too" },
};

/** Ops with nothing to differentiate: they have no inputs. */
const leaves: Partial<Record<OpName, () => Value>> = {
  input: () => input("x", "float32", ["n"]),
  weight: () => weight("w", [3]),
  constant: () => constant("float32", [3], [1, 2, 3]),
};

const vector = (name: string) => input(name, "float64", [4]);
const cubic = (name: string) => input(name, "float64", [1, 1, 4, 2]);

/** Ops declared not differentiable: a loss behind the op, and the value whose gradient is asked for in vain. */
const notDifferentiable: Partial<Record<OpName, () => { y: Value; x: Value }>> = {
  iota: () => behind(iota(4), (x) => cast(x, "float64")),
  less: () => behind(vector("a"), (x) => where(elementwise.less(x, vector("b")), vector("c"), vector("d"))),
  equal: () => behind(vector("a"), (x) => cast(elementwise.equal(x, vector("b")), "float64")),
  and: () => behind(input("a", "bool", [4]), (x) => cast(elementwise.and(x, input("b", "bool", [4])), "float64")),
  window: () => behind(input("x", "float64", [4, 3]), (x) => reshape(window(x, input("start", "int32", [1]), 1), [4])),
  reduceMax: () => behind(vector("a"), (x) => reduceMax(x, [0])),
  packedLinear: () => {
    const part = (dtype: "uint8" | "float32", shape: number[]) =>
      apply1("weight", [], { name: `w ${dtype} ${shape}`, dtype, shape });
    const x = input("x", "float32", [2, 64]);
    return { x, y: packedLinear(x, [part("uint8", [3, 2, 32]), part("float32", [3, 2])], 8, "layer") };
  },
  outputChunk: () =>
    behind(input("x", "float64", [2, 4]), (x) => apply("outputChunk", [x, weight("w", [3, 4], "float64")], { chunks: 1 })[1]!),
  outputLoss: () =>
    behind(input("x", "float64", [2, 4]), (x) => {
      const column = (name: string) => input(name, "float64", [2, 1]);
      const rows = weight("rows", [2, 4], "float64");
      return apply("outputLoss", [x, rows, column("max"), column("z"), input("h", "float64", [2, 4])])[0]!;
    }),
  rowsWhere: () => behind(input("c", "bool", [4, 1]), (x) => cast(rowsWhere(x, "rows"), "float64")),
  lastOf: () => behind(input("x", "float64", [2, 4, 3]), (x) => lastOf(x, input("count", "int64", []), "places")),
  attentionGradient: () =>
    behind(cubic("q"), (x) => {
      const attributes = { scale: 1, group: 1, causal: false, blocks: 1 };
      const mask = input("mask", "float64", [1, 1, 4, 4]);
      return apply("attentionGradient", [x, cubic("k"), cubic("v"), mask, cubic("o"), cubic("d")], attributes)[0]!;
    }),
  store: () => behind(input("x", "float32", [4, 32]), (x) => cast(stored(x, "float16")[0]!, "float32")),
  widen: () => behind(input("part", "float16", [4, 32]), (x) => widened([x], "float16")),
  rotate: () => behind(input("x", "float32", [2, 32]), (x) => rotate(x)),
  quantiseRows: () => behind(input("x", "float32", [2, 32]), (x) => quantiseRows(x).scale),
  standingOut: () => behind(input("x", "float32", [2, 32]), (x) => cast(standingOut(x, 2), "float32")),
  withoutColumns: () => behind(input("x", "float32", [2, 32]), (x) => withoutColumns(x, input("places", "int32", [2]))),
  columnsAt: () => behind(input("x", "float32", [2, 32]), (x) => columnsAt(x, input("places", "int32", [2]))),
  integerProduct: () =>
    behind(input("scale", "float32", [4]), (scale) =>
      integerProduct(input("q", "uint8", [2, 32]), input("w", "int8", [32, 4]), {}, scale),
    ),
  crossEntropyGradient: () =>
    behind(input("logits", "float64", [4, 3]), (x) => apply1("crossEntropyGradient", [x, input("labels", "int32", [4])])),
};
/** Ops whose output is a constant in the backward pass: no gradient passes, and none is missed. */
const constants: Partial<Record<OpName, (x: Value) => Value>> = { detach: elementwise.detach };

const behind = (x: Value, op: (x: Value) => Value) => ({ x, y: op(x) });

for (const op of Object.keys(table()) as OpName[]) {
  test(`gradient of ${op}`, async () => {
    const entries = [leaves[op], notDifferentiable[op], constants[op], proofs[op]].filter((entry) => entry !== undefined);
    assert.equal(entries.length, 1, `${op} needs one entry in this file: leaves, notDifferentiable, constants or proofs`);
    const { vjp } = table()[op];
    assert.equal(vjp === null, notDifferentiable[op] !== undefined, "the entry agrees with the table");

    const leaf = leaves[op]?.();
    if (leaf) {
      assert.deepEqual(leaf.node.inputs, []);
      assert.deepEqual(vjp!(leaf.node, [leaf]), []);
    }
    const constant = constants[op]?.(input("x", "float64", [4]));
    if (constant) {
      const [d, x] = [constant, constant.node.inputs[0]!];
      assert.deepEqual(vjp!(d.node, [d]), []);
      const [gradient] = gradients(reshape(reduceSum(elementwise.mul(x, d), [0]), []), [x]);
      const reads = topological([gradient!]);
      assert.ok(reads.includes(d.node), "x · constant(x) has the constant as its gradient, and not twice x");
      assert.ok(!reads.some((node) => node.op === "add"));
    }
    const barred = notDifferentiable[op]?.();
    if (barred) {
      assert.throws(
        () =>
          gradients(
            reshape(
              reduceSum(
                barred.y,
                barred.y.shape.map((_, i) => i),
              ),
              [],
            ),
            [barred.x],
          ),
        (error: unknown) => error instanceof LowrankError && error.code === "graph/gradient",
      );
    }
    if (proofs[op]) {
      const compared = await proveGradient(op, proofs[op], inFloat32[op] ?? float64, inFloat32[op] !== undefined);
      assert.ok(compared >= 5, `only ${compared} elements were compared`);
    }
  });
}

test("the row of an embedding's padding has no gradient, whatever reads it", async () => {
  const ids = input("ids", "int32", [3]);
  const table = input("table", "float64", [4, 2]);
  const loss = reshape(reduceSum(embedding(ids, table, "embed", 1), [0, 1]), []);
  const graph = { outputs: { gradient: gradients(loss, [table])[0]! } };
  const session = await openGraph(graph, noWeights, { openSession: openNodeSession });
  const { gradient } = await session.run({ ids: int32([3], [1, 2, 1]) });
  await session.close();
  assert.deepEqual([...gradient!.data], [0, 0, 0, 0, 1, 1, 0, 0]);
});

test("a wrong rule is caught", async () => {
  const right = table().sin.vjp;
  table().sin.vjp = ({ inputs: [x] }, [d]) => [elementwise.mul(d!, elementwise.sin(x!))];
  try {
    await assert.rejects(proveGradient("sin", proofs.sin!, float64, false), /sin, vector: d\/dx\[\d\] is .*, expected/);
  } finally {
    table().sin.vjp = right;
  }
});
