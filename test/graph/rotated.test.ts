// Products with rotated 8-bit weights against the same products in float64: both directions, sums, outliers, and what shares a quantised input.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Graph, nodesOf, rewrite, type Value } from "../../src/graph/graph.ts";
import { add } from "../../src/graph/ops/elementwise.ts";
import { input, weight } from "../../src/graph/ops/leaves.ts";
import { gemm, linear } from "../../src/graph/ops/linear.ts";
import { columnsAt, integerProduct, standingOut } from "../../src/graph/ops/rotated.ts";
import { transpose } from "../../src/graph/ops/shape.ts";
import { stored, widened } from "../../src/graph/ops/stored.ts";
import { type Program, whole } from "../../src/graph/stages.ts";
import { OUTLIERS, outlierInput, storeWeights } from "../../src/graph/store.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, purpose } from "../../src/random.ts";
import { float32, sizeOf, type Tensor } from "../../src/tensor.ts";

const random = (shape: readonly number[], stream: number): Tensor =>
  float32(shape, normal(1, [purpose.sample, stream], sizeOf(shape)));

async function run(program: Program, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await openNodeSession(program, { threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

/** a [n, k] · b [k, m], or b [m, k] transposed. */
function times(a: Tensor, b: Tensor, transB: boolean): Float64Array {
  const [n, k] = a.shape as [number, number];
  const m = transB ? b.shape[0]! : b.shape[1]!;
  const out = new Float64Array(n * m);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++)
      for (let l = 0; l < k; l++)
        out[i * m + j]! += Number(a.data[i * k + l]) * Number(transB ? b.data[j * k + l] : b.data[l * m + j]);
  return out;
}

/** |a - b| / |b|. */
function difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [apart, length] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    apart += (a[i]! - b[i]!) ** 2;
    length += b[i]! ** 2;
  }
  return Math.sqrt(apart / length);
}

const plus = (a: ArrayLike<number>, b: ArrayLike<number>): Float64Array => Float64Array.from(b, (value, i) => value + a[i]!);

/** The graph with rotated weights, whose parts are made of float32 inputs on the way; so are outliers, by what stands out of x. */
function rotatedGraph(graph: Graph, weights: Record<string, Tensor>): { program: Program; graph: Graph } {
  const parts = storeWeights(graph, () => "int8rotated");
  const own = new Map(
    nodesOf(parts).flatMap(({ op, attributes, outputs }) => (op === "input" ? [[attributes["name"], outputs[0]!]] : [])),
  );
  const wide = (name: string): Value => {
    const known = own.get(name) ?? input(name, "float32", weights[name]!.shape);
    own.set(name, known);
    return known;
  };
  const places = own.has("x") ? standingOut(own.get("x")!, OUTLIERS) : null;
  const made = new Map(Object.keys(weights).map((name) => [name, stored(wide(name), "int8rotated")]));
  const leaves = new Map<Value, Value>();
  for (const { op, attributes, outputs } of nodesOf(parts)) {
    const outliers = op === "input" ? outlierInput(String(attributes["name"])) : null;
    if (outliers) leaves.set(outputs[0]!, outliers.of ? transpose(columnsAt(wide(outliers.of), places!), [1, 0]) : places!);
    if (op === "weight") leaves.set(outputs[0]!, made.get(String(attributes["of"]))![Number(attributes["part"])]!);
  }
  return { program: whole(replaced(parts, leaves)), graph: parts };
}

const replaced = (graph: Graph, leaves: ReadonlyMap<Value, Value>): Graph =>
  rewrite(graph, ({ outputs: [output] }) => (leaves.has(output!) ? [leaves.get(output!)!] : null));

const [rows, width] = [48, 256];
const x = random([rows, width], 0);
const q = random([96, width], 1);
const k = random([64, width], 2);
for (const column of [3, 40, 41, 200]) for (let row = 0; row < rows; row++) (x.data as Float32Array)[row * width + column]! *= 60;

const layers = (): { x: Value; q: Value; k: Value } => ({
  x: input("x", "float32", ["n", width]),
  q: weight("q", [96, width]),
  k: weight("k", [64, width]),
});

test("a weight is rotated and read back within its 8 bits", async () => {
  const w = input("w", "float32", ["rows", width]);
  const { back } = await run(whole({ outputs: { back: widened(stored(w, "int8rotated"), "int8rotated") } }), { w: q });
  assert.ok(difference(back!.data as Float32Array, q.data as Float32Array) < 0.01);
});

test("layers share one quantised input, and outlier columns do not coarsen the others", async () => {
  const own = layers();
  const z = input("z", "float32", ["n", 64]);
  const outputs = { yq: linear(own.x, own.q, "q"), yk: gemm(own.x, own.k, { transB: true }, z) };
  const { program, graph } = rotatedGraph({ outputs }, { q, k });
  const count = (op: string) => nodesOf(graph).filter((node) => node.op === op).length;
  assert.deepEqual([count("quantiseRows"), count("withoutColumns"), count("widen")], [1, 1, 0]);
  const beside = random([rows, 64], 3);
  const found = await run(program, { x, z: beside, q, k });
  assert.ok(difference(found["yq"]!.data as Float32Array, times(x, q, true)) < 0.01);
  assert.ok(difference(found["yk"]!.data as Float32Array, plus(beside.data as Float32Array, times(x, k, true))) < 0.01);
  // Of the columns that do not stand out, too: without them apart, their share would be lost in a step of the quantiser.
  const small = { ...x, data: (x.data as Float32Array).map((value, i) => ([3, 40, 41, 200].includes(i % width) ? 0 : value)) };
  const large = { ...x, data: (x.data as Float32Array).map((value, i) => value - (small.data as Float32Array)[i]!) };
  const rest = plus(
    times(large, q, true).map((value) => -value),
    found["yq"]!.data as Float32Array,
  );
  assert.ok(difference(rest, times(small, q, true)) < 0.25);
});

test("gradients of layers that read the same input add up before one rotation back", async () => {
  const own = layers();
  const [dq, dk, low, a] = [
    input("dq", "float32", ["n", 96]),
    input("dk", "float32", ["n", 64]),
    input("low", "float32", ["n", 8]),
    input("a", "float32", [8, width]),
  ];
  const first = gemm(low, a, {}, gemm(dk, own.k));
  const { program, graph } = rotatedGraph({ outputs: { d: gemm(dq, own.q, {}, first) } }, { q, k });
  assert.equal(nodesOf(graph).filter(({ op }) => op === "rotate").length, 1);
  const feeds = { dq: random([rows, 96], 4), dk: random([rows, 64], 5), low: random([rows, 8], 6), a: random([8, width], 7) };
  const { d } = await run(program, { ...feeds, q, k });
  const exact = plus(plus(times(feeds.dq, q, false), times(feeds.dk, k, false)), times(feeds.low, feeds.a, false));
  assert.ok(difference(d!.data as Float32Array, exact) < 0.02);
});

test("a sum that others read too stays as it is", async () => {
  const own = layers();
  const [dq, dk] = [input("dq", "float32", ["n", 96]), input("dk", "float32", ["n", 64])];
  const shared = gemm(dk, own.k);
  const { program } = rotatedGraph({ outputs: { d: gemm(dq, own.q, {}, shared), also: add(shared, shared) } }, { q, k });
  const feeds = { dq: random([rows, 96], 4), dk: random([rows, 64], 5) };
  const { d, also } = await run(program, { ...feeds, q, k });
  const one = times(feeds.dk, k, false);
  assert.ok(difference(d!.data as Float32Array, plus(times(feeds.dq, q, false), one)) < 0.02);
  assert.ok(difference(also!.data as Float32Array, plus(one, one)) < 0.02);
});

for (const width of [96, 2048])
  test(`a transposed weight with rows of ${width} bytes is met as it is`, async () => {
    const integers = (shape: readonly [number, number], stream: number): Int8Array =>
      Int8Array.from(normal(1, [purpose.sample, stream], sizeOf(shape)), (value) => 40 * Math.tanh(value));
    const [q, w] = [integers([3, width], 8), integers([5, width], 9)];
    const y = integerProduct(input("q", "uint8", ["n", width]), input("w", "int8", [5, width]), { transB: true });
    const found = await run(whole({ outputs: { y } }), {
      q: { dtype: "uint8", shape: [3, width], data: Uint8Array.from(q, (value) => value + 128) },
      w: { dtype: "int8", shape: [5, width], data: w },
    });
    const wide = (data: Int8Array, rows: number) => float32([rows, width], Float32Array.from(data));
    assert.deepEqual([...found["y"]!.data], [...times(wide(q, 3), wide(w, 5), true)]);
  });

test("no rows are no error", async () => {
  const own = layers();
  const { program } = rotatedGraph({ outputs: { y: linear(own.x, own.q, "q") } }, { q });
  const { y: none } = await run(program, { x: float32([0, width], new Float32Array(0)), q });
  assert.deepEqual(none!.shape, [0, 96]);
});
