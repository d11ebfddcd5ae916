// The graph: dims, types, passes, printing, and which nodes differentiation makes.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { adapt, dropoutPoolWidth, type LayerTensors, pooledDropout } from "../../src/adapters/inject.ts";
import type { AdapterModule } from "../../src/adapters/match.ts";
import { lora } from "../../src/adapters/methods/lora.ts";
import { gradients } from "../../src/graph/autodiff.ts";
import { addDims, divideDim, elements, mulDims, sameShape } from "../../src/graph/dims.ts";
import { fuseAdditions } from "../../src/graph/fuse.ts";
import { check, type Graph, type Node, nodesOf, rewrite, topological, type Value } from "../../src/graph/graph.ts";
import { add, exp, mul, neg, silu, sub } from "../../src/graph/ops/elementwise.ts";
import { constant, input, iota, weight } from "../../src/graph/ops/leaves.ts";
import { gemm, linear } from "../../src/graph/ops/linear.ts";
import { reduceMax } from "../../src/graph/ops/reduction.ts";
import { concat, reshape, slice } from "../../src/graph/ops/shape.ts";
import { whole } from "../../src/graph/stages.ts";
import { type DecoderModel, decoderTypes, forwardGraph } from "../../src/models/registry.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, purpose, uniform } from "../../src/random.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { float32, int32, sizeOf, type Tensor } from "../../src/tensor.ts";
import { inputsOf, loraGraph } from "../../src/train/training-graph.ts";
import { near, refusedSync } from "../helpers/assert.ts";
import { print } from "../helpers/print-graph.ts";
import { fixtures } from "../helpers/repository.ts";
import { tinyConfig, tinyModules } from "../helpers/tiny-decoder.ts";

const x = input("x", "float32", ["n", 4]);

/** What `check` and `gradients` refuse has no next step: the mistake is the author's of the graph. */
const isRefused = (work: () => unknown, code: string, subject: string | null, text: RegExp) =>
  refusedSync(work, code, { subject, text, ...(code === "graph/type" ? {} : { next: null }) });

/** Runs a graph without weights; float32 outputs by name. */
async function run(graph: Graph, feeds: Record<string, Tensor>): Promise<Record<string, Float32Array>> {
  const session = await openNodeSession(whole(graph), { threads: 1 });
  try {
    const results = await session.run(feeds);
    return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
  } finally {
    await session.close();
  }
}

const random = (shape: readonly number[], stream: number): Tensor =>
  float32(shape, normal(1, [purpose.sample, stream], sizeOf(shape)));

const count = (graph: Graph, op: Node["op"]) => nodesOf(graph).filter((node) => node.op === op).length;

test("equal dims have one spelling", () => {
  assert.equal(mulDims("seq", "batch"), "batch*seq");
  assert.equal(mulDims("batch", "seq", 3), mulDims(3, mulDims("seq", "batch")));
  assert.equal(addDims("seq", "past"), "past+seq");
  assert.equal(addDims("seq", 1, "past", 2), "past+seq+3");
  assert.equal(addDims("seq", "seq"), "2*seq");
  assert.equal(mulDims("past+seq", 2), "2*past+2*seq");
  assert.equal(mulDims("past+seq", "batch"), "batch*past+batch*seq");
  assert.equal(mulDims("a+1", "a+1"), "2*a+a*a+1");
  assert.equal(mulDims("seq", 0), 0);
  assert.equal(mulDims(2, 3), 6);
  assert.equal(addDims(2, 3), 5);
  assert.equal(elements([]), 1);
  assert.equal(elements(["batch", 4, "seq"]), "4*batch*seq");
  assert.equal(divideDim("4*batch+2*seq", 2), "2*batch+seq");
  assert.equal(divideDim(6, 3), 2);
});

test("shapes are the same only dim by dim", () => {
  assert.ok(sameShape(["n", 4], ["n", 4]));
  assert.ok(!sameShape(["n", 4], ["m", 4]));
  assert.ok(!sameShape(["n", 4], ["n", 4, 1]));
});

test("a type error names the op and the types it was given", () => {
  const types = /float32\[n, 4\], float32\[n, 3\]/;
  const other = input("other", "float32", ["n", 3]);
  isRefused(() => add(x, other), "graph/type", "op add", types);
  isRefused(() => gemm(x, other), "graph/type", "op gemm", types);
  isRefused(() => concat([x, other], 0), "graph/type", "op concat", types);
  isRefused(() => reshape(x, ["n", 5]), "graph/type", "op reshape", /4\*n elements do not fill \[n, 5\]/);
  isRefused(() => slice(x, 0, 0, 1), "graph/type", "op slice", /axis 0 has no fixed length/);
  isRefused(() => slice(x, 1, 2, 5), "graph/type", "op slice", /2\.\.5 is outside 0\.\.4/);
  isRefused(() => mul(x, iota(4)), "graph/type", "op mul", /differ in dtype/);
});

test("check finds a node whose outputs are not what its rule infers", () => {
  const broken = { op: "neg", inputs: [x], attributes: {}, outputs: [] as Value[] } satisfies Node;
  broken.outputs.push({ dtype: "float32", shape: ["n", 5], node: broken, index: 0 });
  isRefused(() => check({ outputs: { y: broken.outputs[0]! } }), "graph/check", null, /outputs of neg/);

  const twoOutputs = { ...broken, outputs: [0, 1].map((index): Value => ({ ...x, node: broken, index })) };
  const y: Value = { ...x, node: twoOutputs, index: 1 };
  isRefused(() => check({ outputs: { y } }), "graph/check", null, /outputs of neg/);
});

test("check finds a node whose inputs its rule refuses", () => {
  const broken = { op: "add", inputs: [x, iota("n")], attributes: {}, outputs: [] as Value[] } satisfies Node;
  broken.outputs.push({ ...x, node: broken, index: 0 });
  isRefused(() => check({ outputs: { y: broken.outputs[0]! } }), "graph/type", "op add", /int32\[n\]/);
});

test("check finds two leaves of one name", () => {
  const twin = input("x", "float32", ["n", 4]);
  isRefused(() => check({ outputs: { y: add(x, twin) } }), "graph/check", null, /called input x/);
  const [w, again] = [weight("w", [4]), weight("w", [4])];
  isRefused(() => check({ outputs: { y: add(w, again) } }), "graph/check", null, /called weight w/);
  assert.ok(check({ outputs: { y: add(x, x), z: add(input("w", "float32", [4]), w) } }), "an input may be called as a weight is");
});

test("rewrite keeps what is unchanged and rebuilds what depends on a change", () => {
  const kept = exp(x);
  const changed = sub(x, constant("float32", [], [1]));
  const graph = { outputs: { kept, both: mul(kept, changed) } };
  assert.deepEqual(
    rewrite(graph, () => null),
    graph,
  );
  for (const name of ["kept", "both"] as const) assert.equal(rewrite(graph, () => null).outputs[name], graph.outputs[name]);

  const after = rewrite(graph, (node, [a, b]) => (node.op === "sub" ? [add(a!, b!)] : null));
  assert.equal(after.outputs["kept"], kept);
  assert.notEqual(after.outputs["both"], graph.outputs.both);
  assert.deepEqual(
    nodesOf(after).map(({ op }) => op),
    ["input", "exp", "constant", "add", "mul"],
  );
  assert.equal(after.outputs["both"]!.node.inputs[0], kept);
});

test("rewrite checks what it made", () => {
  const graph = { outputs: { y: neg(x) } };
  const twin = input("x", "float32", ["n", 4]);
  assert.throws(() => rewrite(graph, (node) => (node.op === "neg" ? [add(x, twin)] : null)), { code: "graph/check" });
});

test("fuseAdditions takes additions into the products and changes no value", async () => {
  const [w, a, b, bias] = [
    input("w", "float32", [3, 4]),
    input("a", "float32", [2, 4]),
    input("b", "float32", [3, 2]),
    input("bias", "float32", [3]),
  ];
  const residual = input("residual", "float32", ["n", 3]);
  const low = gemm(x, a, { transB: true });
  const update = () => gemm(low, b, { transB: true, alpha: 0.5 });
  const shared = linear(x, w, "shared");
  const graph = check({
    outputs: {
      lora: add(residual, add(linear(x, w, "layer"), update())), // both additions vanish
      swapped: add(update(), residual), // vanishes
      accumulated: add(gemm(x, w, { transB: true }, neg(residual)), exp(residual)), // stays: its accumulator is not a product
      biased: add(linear(x, w, "biased", bias), residual), // stays: the product has a bias
      shared: add(shared, residual), // stays: `product` is read twice
      product: neg(shared),
      broadcast: add(gemm(x, w, { transB: true }), bias), // stays: it is broadcast
    },
  });
  const fused = fuseAdditions(graph);
  assert.deepEqual([count(graph, "add"), count(fused, "add")], [7, 4]);

  const feeds = {
    x: random([5, 4], 0),
    w: random([3, 4], 1),
    a: random([2, 4], 2),
    b: random([3, 2], 3),
    bias: random([3], 4),
    residual: random([5, 3], 5),
  };
  const [before, after] = [await run(graph, feeds), await run(fused, feeds)];
  for (const name of Object.keys(graph.outputs)) {
    const values = before[name]!;
    assert.equal(values.length, 15);
    assert.ok(values.some((value) => Math.abs(value) > 0.1));
    near(after[name]!, values, { atol: 1e-6, rtol: 1e-6 }, name);
  }
});

/** The layers that give queries and values, in each family. */
const queriesAndValues = String.raw`.*\.(q_proj|v_proj|qkv_proj|query_key_value|c_attn)`;

for (const modelType of decoderTypes) {
  test(`printed: a layer of ${modelType} with LoRA`, () => {
    const config = tinyConfig(modelType);
    const modules = tinyModules(config, { rank: 3, alpha: 6, targetModules: queriesAndValues });
    const factors = loraFactors(modules);
    const forward = forwardGraph(config);
    const text = print(adapt(forward, lora, factors));
    const file = `${fixtures}/graphs/${modelType}.txt`;
    if (process.env["UPDATE"] === "1") {
      mkdirSync(`${fixtures}/graphs`, { recursive: true });
      writeFileSync(file, text);
    }
    assert.equal(text, readFileSync(file, "utf8"), "run with UPDATE=1 if the change is meant");
    assert.ok(modules.length > 0);
    assert.equal(text.match(/lora_A/g)?.length, 2 * modules.length, "each factor is declared and read");
  });
}

const loraFactors = (modules: readonly AdapterModule[]): Map<string, LayerTensors> =>
  new Map(
    modules.map(({ path, rank, scale, inFeatures, outFeatures }) => [
      path,
      {
        tensors: {
          loraA: input(`${path}.lora_A`, "float32", [rank, inFeatures]),
          loraB: input(`${path}.lora_B`, "float32", [outFeatures, rank]),
        },
        scale,
      },
    ]),
  );

const RANK = 3;

/** The loss with adapters on `modules`: nodes of the forward pass, and those that its gradient adds. */
function differentiated(config: DecoderModel, modules: readonly AdapterModule[]) {
  const factors = loraFactors(modules);
  const trained = [...factors.values()].flatMap(({ tensors: { loraA, loraB } }) => [loraA, loraB]);
  const frozen = lossGraph(config, { maxTargets: 8, maxLength: 8 });
  const forward = adapt(frozen, lora, factors);
  const found = gradients(forward.outputs["loss"]!, trained);
  const forwardNodes = new Set(nodesOf(forward));
  const all = topological([...Object.values(forward.outputs), ...found]);
  return { forwardNodes, backward: all.filter((node) => !forwardNodes.has(node)), trained, found };
}

test("nothing below the lowest adapter has a backward node", () => {
  const LAYERS = 4;
  const config = tinyConfig("llama", LAYERS);
  const last = LAYERS - 1;
  const modules = tinyModules(config, { rank: RANK, targetModules: ["q_proj", "v_proj"], layersToTransform: [last] });
  assert.deepEqual(
    modules.map(({ path }) => path),
    [`model.layers.${last}.self_attn.q_proj`, `model.layers.${last}.self_attn.v_proj`],
  );
  const { forwardNodes, backward } = differentiated(config, modules);
  assert.ok(backward.length > 20);

  // A forward node is above the border if it reads a weight from the last layer on, below it if it reads others only.
  const weightsOf = new Map<Node, Set<string>>();
  for (const node of forwardNodes) {
    const names = new Set(node.inputs.flatMap((value) => [...weightsOf.get(value.node)!]));
    if (node.op === "weight") names.add(String(node.attributes["name"]));
    weightsOf.set(node, names);
  }
  const above = (name: string) => name.startsWith(`model.layers.${last}.`) || name === "model.norm.weight";
  const isBelow = (node: Node) => {
    const names = [...weightsOf.get(node)!];
    return names.length > 0 && !names.some(above);
  };
  assert.ok([...forwardNodes].filter(isBelow).length > 50, "there is much below");
  const read = new Set(backward.flatMap(({ inputs }) => inputs.map(({ node }) => node)).filter((node) => forwardNodes.has(node)));
  assert.ok(read.size > 10);
  assert.deepEqual(
    [...read].filter(isBelow).map(({ op, attributes }) => `${op} ${attributes["name"] ?? ""}`),
    [],
  );

  const ofLayers = (layers: number, layersToTransform: number[] | null) => {
    const deep = tinyConfig("llama", layers);
    return differentiated(deep, tinyModules(deep, { rank: RANK, targetModules: ["q_proj", "v_proj"], layersToTransform }))
      .backward.length;
  };
  assert.equal(ofLayers(LAYERS + 3, [LAYERS + 2]), backward.length, "as many, whatever lies below");
  assert.ok(ofLayers(LAYERS, null) > 3 * backward.length, "all layers have more");
});

test("nothing frozen gets a gradient", () => {
  const config = tinyConfig("qwen2", 2);
  const modules = tinyModules(config, { rank: RANK, targetModules: "all-linear" });
  const { forwardNodes, backward, trained, found } = differentiated(config, modules);
  assert.equal(trained.length, 2 * 2 * 7);
  assert.deepEqual(
    found.map(({ shape }) => shape),
    trained.map(({ shape }) => shape),
  );
  // Activations have a symbolic axis, LoRA's factors an axis of RANK: what has a weight's shape is a weight's gradient.
  const shapes = [...forwardNodes].filter(({ op }) => op === "weight").map(({ outputs }) => outputs[0]!.shape.join());
  assert.ok(shapes.length > 20 && !shapes.some((shape) => shape.split(",").includes(String(RANK))));
  const frozen = new Set(shapes.flatMap((shape) => [shape, shape.split(",").reverse().join()]));
  const made = backward.flatMap(({ outputs }) => outputs.filter(({ shape }) => frozen.has(shape.join())));
  assert.deepEqual(made, []);

  const graph = loraGraph(lossGraph(config, { maxTargets: 8, maxLength: 8 }), { config: loraConfig(), modules }, true);
  const names = Object.keys(graph.outputs).filter((name) => !name.startsWith("border "));
  assert.equal(names.length, 1 + trained.length, "the loss and one gradient a trained tensor");
});

test("gradients names what it cannot reach", () => {
  const y = input("y", "float32", []);
  const loss = mul(y, exp(y));
  isRefused(() => gradients(loss, [x]), "graph/gradient", "input x", /the loss depends on none/);
  isRefused(() => gradients(loss, [y, x]), "graph/gradient", "input x", /no gradient reaches it/);
  const hidden = reshape(reduceMax(x, [0, 1]), []);
  isRefused(() => gradients(hidden, [x]), "graph/gradient", "reduceMax", /declared not differentiable/);
});

/** Two named layers, with or without dropout before their A; every weight is an input. */
function twoLayers(dropout: boolean): { graph: Graph; modules: AdapterModule[] } {
  const modules: AdapterModule[] = [
    { path: "first", rank: 2, alpha: 2, scale: 1, inFeatures: 4, outFeatures: 4 },
    { path: "second", rank: 2, alpha: 4, scale: 2, inFeatures: 4, outFeatures: 3 },
  ];
  const hidden = silu(linear(x, input("w1", "float32", [4, 4]), "first"));
  const graph = { outputs: { y: linear(hidden, input("w2", "float32", [3, 4]), "second") } };
  const pool = input("pool", "float32", ["n", dropoutPoolWidth(modules)]);
  const drop = dropout ? pooledDropout(modules, () => pool, input("rate", "float32", [])) : undefined;
  return { graph: adapt(graph, lora, loraFactors(modules), drop), modules };
}

/** What the inputs of a graph are fed that say where modules begin in a pool. */
const startsOf = (graph: Graph): Record<string, Tensor> =>
  Object.fromEntries([...inputsOf(graph).starts].map(([name, start]) => [name, int32([1], [start])]));

test("dropout with rate 0 is no dropout, with another rate it changes the update only", async () => {
  const { graph, modules } = twoLayers(true);
  const rows = 6;
  const feeds: Record<string, Tensor> = { x: random([rows, 4], 0), w1: random([4, 4], 1), w2: random([3, 4], 2) };
  modules.forEach(({ path, rank, inFeatures, outFeatures }, i) => {
    feeds[`${path}.lora_A`] = random([rank, inFeatures], 3 + 2 * i);
    feeds[`${path}.lora_B`] = random([outFeatures, rank], 4 + 2 * i);
  });
  const shape = [rows, dropoutPoolWidth(modules)];
  const pool = float32(shape, uniform(7, [purpose.dropout], sizeOf(shape)));
  const at = async (rate: number) =>
    (await run(graph, { ...feeds, ...startsOf(graph), pool, rate: float32([], Float32Array.of(rate)) }))["y"]!;
  const without = (await run(twoLayers(false).graph, feeds))["y"]!;
  assert.deepEqual(await at(0), without);
  assert.notDeepEqual(await at(0.5), without);

  for (const { path, rank, outFeatures } of modules) {
    feeds[`${path}.lora_B`] = float32([outFeatures, rank], new Float32Array(outFeatures * rank));
  }
  assert.deepEqual(await at(0.5), await at(0), "with B = 0 nothing is left to drop");
});

test("dropout keeps the mean, and each module drops elements of its own", async () => {
  const [rows, width, rate] = [400, 64, 0.25];
  const modules = ["first", "second", "third"].map((path) => ({ path, inFeatures: width }));
  const values = input("values", "float32", ["n", width]);
  const pool = input("pool", "float32", ["n", dropoutPoolWidth(modules)]);
  const drop = pooledDropout(modules, () => pool, input("rate", "float32", []));
  const graph = check({ outputs: Object.fromEntries(modules.map(({ path }) => [path, drop(path, values)])) });
  const shape = [rows, dropoutPoolWidth(modules)];
  const dropped = await run(graph, {
    ...startsOf(graph),
    values: float32([rows, width], new Float32Array(rows * width).fill(1)),
    pool: float32(shape, uniform(9, [purpose.dropout], sizeOf(shape))),
    rate: float32([], Float32Array.of(rate)),
  });
  const kept = Math.fround(1 / (1 - rate));
  const masks = modules.map(({ path }) => dropped[path]!);
  for (const mask of masks) {
    assert.deepEqual(new Set(mask), new Set([0, kept]));
    const mean = mask.reduce((sum, value) => sum + value, 0) / mask.length;
    assert.ok(Math.abs(mean - 1) < 0.02, `the mean is ${mean}`);
  }
  for (const [a, b] of [
    [0, 1],
    [0, 2],
    [1, 2],
  ] as const) {
    const agree = masks[a]!.filter((value, i) => value === masks[b]![i]).length / (rows * width);
    const expected = rate ** 2 + (1 - rate) ** 2;
    assert.ok(Math.abs(agree - expected) < 0.02, `masks ${a} and ${b} agree on ${agree}; by chance they would on ${expected}`);
  }
});
