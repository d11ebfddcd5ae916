// Proves a vjp by central differences: Σ random weights · op(inputs), differentiated by the rule and by the engine's own values.
import assert from "node:assert/strict";
import { gradients } from "../../src/graph/autodiff.ts";
import type { Dim, Shape } from "../../src/graph/dims.ts";
import { check, type ElementType, nodesOf, type Value } from "../../src/graph/graph.ts";
import { mul } from "../../src/graph/ops/elementwise.ts";
import { input } from "../../src/graph/ops/leaves.ts";
import type { OpName } from "../../src/graph/ops/names.ts";
import { reduceSum } from "../../src/graph/ops/reduction.ts";
import { reshape } from "../../src/graph/ops/shape.ts";
import { whole } from "../../src/graph/stages.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, permutation, purpose, uniform } from "../../src/random.ts";
import type { Session } from "../../src/runtime/session.ts";
import { sizeOf, type Tensor, type TensorData } from "../../src/tensor.ts";

/** What one input of a case holds. Float inputs take the precision that is being run; those not `frozen` are differentiated. */
export interface Given {
  dtype: "float" | "int32" | "bool";
  shape: readonly number[];
  values: readonly number[];
  frozen?: boolean;
  /** The shape as the graph declares it, where that has symbols. */
  dims?: Shape;
}

/** One set of inputs for an op; `result` must use the op and end in floats. */
export interface GradientCase {
  name: string;
  given: Record<string, Given>;
  result: (inputs: Record<string, Value>) => Value;
}

export interface Bounds {
  eps: number;
  atol: number;
  rtol: number;
}

type Precision = "float32" | "float64";

/** Each drawn input has a stream of its own. */
let drawn = 0;

/** Standard normal numbers, or their distance from 0 plus a half. */
export function floats(shape: readonly number[], kind: "normal" | "positive" = "normal"): Given {
  const values = [...normal(0, [purpose.sample, ++drawn], sizeOf(shape))];
  return { dtype: "float", shape, values: kind === "normal" ? values : values.map((value) => 0.5 + Math.abs(value)) };
}

export const frozen = (given: Given): Given => ({ ...given, frozen: true });
/** The same values, declared with symbols. */
export const symbolic = (given: Given, dims: Shape): Given => ({ ...given, dims });
export const integers = (values: readonly number[], shape: readonly number[] = [values.length]): Given => ({
  dtype: "int32",
  shape,
  values,
});
export const booleans = (shape: readonly number[]): Given => {
  const draws = uniform(0, [purpose.sample, ++drawn], sizeOf(shape));
  return { dtype: "bool", shape, values: [...draws].map((draw, i) => (i === 0 ? 1 : i === 1 ? 0 : Number(draw < 0.5))) };
};

/** At most this many elements of one input are perturbed; of a bigger one, a random sample. */
const MAX_ELEMENTS = 20;
/** How far float32's values and gradients may be from float64's. */
const FLOAT32: Omit<Bounds, "eps"> = { atol: 2e-5, rtol: 2e-4 };

type Feeds = Record<string, Tensor>;

/** A case in one precision, its names and symbols made unlike those of the other precision in the same session. */
interface Built {
  label: string;
  feeds: Feeds;
  outputs: Record<string, Value>;
  /** Name of the output that holds the op's result. */
  result: string;
  /** Weights of the sum that is differentiated, one an element of the result. */
  weights: Float32Array;
  /** The differentiated inputs, each with the output that holds its gradient. */
  gradients: { input: string; output: string; label: string }[];
}

function build(op: OpName, { name: caseName, given, result }: GradientCase, precision: Precision): Built {
  const label = `${op}, ${caseName}`;
  const names = Object.keys(given);
  const own = (name: string) => `${name} ${precision}`;
  const ownDim = (dim: Dim): Dim => (typeof dim === "string" ? dim.replace(/[a-z]+/g, `$&_${precision}`) : dim);
  const dtypeOf = ({ dtype }: Given): ElementType => (dtype === "float" ? precision : dtype);

  const feeds: Feeds = {};
  const inputs: Record<string, Value> = {};
  const lengths = new Map<Dim, number>();
  for (const name of names) {
    const { shape, values, dims = shape } = given[name]!;
    const dtype = dtypeOf(given[name]!);
    feeds[own(name)] = tensor(dtype, shape, values);
    inputs[name] = input(own(name), dtype, dims.map(ownDim));
    inputs[name].shape.forEach((dim, i) => {
      lengths.set(dim, shape[i]!);
    });
  }
  const y = result(inputs);
  const usesOp = nodesOf({ outputs: { y } }).some((node) => node.op === op);
  assert.ok(usesOp, `${label}: the case does not use the op`);

  const shape = y.shape.map((dim) => (typeof dim === "number" ? dim : lengths.get(dim)!));
  const weights = normal(0, [purpose.sample], sizeOf(shape));
  feeds[own("weights")] = tensor(y.dtype, shape, [...weights]);
  const axes = shape.map((_, i) => i);
  const loss = reshape(reduceSum(mul(y, input(own("weights"), y.dtype, y.shape)), axes), []);

  const trained = names.filter((name) => given[name]!.dtype === "float" && !given[name]!.frozen);
  const outputs: Record<string, Value> = { [own("result")]: y };
  const wrt = trained.map((name) => inputs[name]!);
  gradients(loss, wrt).forEach((gradient, i) => {
    assert.deepEqual([gradient.dtype, gradient.shape], [wrt[i]!.dtype, wrt[i]!.shape], `${label}: the type of d/d${trained[i]}`);
    outputs[own(`gradient ${trained[i]}`)] = gradient;
  });
  return {
    label,
    feeds,
    outputs,
    result: own("result"),
    weights,
    gradients: trained.map((name) => ({ input: own(name), output: own(`gradient ${name}`), label: `${label}: d/d${name}` })),
  };
}

const arrays: Partial<Record<ElementType, { from(values: readonly number[]): TensorData }>> = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  bool: Uint8Array,
};

function tensor(dtype: ElementType, shape: readonly number[], values: readonly number[]): Tensor {
  return { dtype, shape, data: arrays[dtype]!.from(values) };
}

/**
 * Checks the op in every case: the rule's gradients against central differences, and the values and gradients of float32
 * against those of float64. With `only32` nothing runs in float64. Returns the number of elements that were perturbed.
 */
export async function proveGradient(op: OpName, cases: readonly GradientCase[], bounds: Bounds, only32 = false): Promise<number> {
  let compared = 0;
  for (const example of cases) compared += await proveCase(op, example, bounds, only32);
  return compared;
}

/** A session a case: each of its many runs computes the whole graph. */
async function proveCase(op: OpName, example: GradientCase, bounds: Bounds, only32: boolean): Promise<number> {
  const precisions: Precision[] = only32 ? ["float32"] : ["float64", "float32"];
  const built = precisions.map((precision) => build(op, example, precision));
  const graph = check({ outputs: Object.assign({}, ...built.map(({ outputs }) => outputs)) });
  const session = await openNodeSession(whole(graph), { threads: 1 });
  try {
    const feeds: Feeds = Object.assign({}, ...built.map((one) => one.feeds));
    await session.bind(feeds);
    const results = await session.run({});
    const [first, second] = built as [Built, Built | undefined];
    if (second) compareFloat32(results, first, second);
    return await compareWithDifferences(session, feeds, results, first, bounds);
  } finally {
    await session.close();
  }
}

async function compareWithDifferences(
  session: Session,
  feeds: Feeds,
  results: Feeds,
  one: Built,
  bounds: Bounds,
): Promise<number> {
  let count = 0;
  for (const { input, output, label } of one.gradients) {
    const gradient = numbers(results[output]!);
    const zero = gradient.every((value) => Math.abs(value) <= bounds.atol);
    assert.ok(!zero, `${label}: all of the gradient is zero, which proves nothing`);
    const sample = [...permutation(gradient.length, [purpose.sample], gradient.length).subarray(0, MAX_ELEMENTS)];
    const expected = await Promise.all(sample.map((at) => difference(session, feeds, one, input, at, bounds.eps)));
    sample.forEach((at, k) => {
      near(gradient[at]!, expected[k]!, bounds, `${label}[${at}]`);
    });
    count += sample.length;
  }
  return count;
}

/** (loss(x + eps) - loss(x - eps)) / 2 eps for one element of one input; the sum over the result is in float64. */
async function difference(session: Session, feeds: Feeds, one: Built, name: string, at: number, eps: number): Promise<number> {
  const moved = async (by: number) => {
    const data = feeds[name]!.data.slice() as Float64Array;
    data[at]! += by;
    const results = await session.run({ [name]: { ...feeds[name]!, data } }, { fetches: [one.result] });
    const loss = numbers(results[one.result]!).reduce((sum, value, i) => sum + value * one.weights[i]!, 0);
    return { x: data[at]!, loss };
  };
  const [right, left] = await Promise.all([moved(eps), moved(-eps)]);
  return (right.loss - left.loss) / (right.x - left.x);
}

function compareFloat32(results: Feeds, double: Built, single: Built): void {
  const pairs = [
    { label: `${double.label}: the result`, expected: double.result, got: single.result },
    ...double.gradients.map(({ label, output }, i) => ({ label, expected: output, got: single.gradients[i]!.output })),
  ];
  for (const { label, expected, got } of pairs) {
    const right = numbers(results[expected]!);
    numbers(results[got]!).forEach((value, i) => {
      near(value, right[i]!, FLOAT32, `${label}[${i}] in float32`);
    });
  }
}

const numbers = ({ data }: { data: TensorData }): number[] => Array.from(data as ArrayLike<number>);

function near(got: number, expected: number, { atol, rtol }: Omit<Bounds, "eps">, what: string): void {
  const allowed = atol + rtol * Math.abs(expected);
  assert.ok(Math.abs(got - expected) <= allowed, `${what} is ${got}, expected ${expected} ± ${allowed}`);
}
