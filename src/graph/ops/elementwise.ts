// Elementwise ops with NumPy broadcasting.
import { type Dim, type Shape, sameShape } from "../dims.ts";
import { apply1, type ElementType, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { scalar } from "./leaves.ts";
import { reduceSum } from "./reduction.ts";
import { reshape } from "./shape.ts";

export const add = (a: Value, b: Value): Value => apply1("add", [a, b]);
export const sub = (a: Value, b: Value): Value => apply1("sub", [a, b]);
export const mul = (a: Value, b: Value): Value => apply1("mul", [a, b]);
export const div = (a: Value, b: Value): Value => apply1("div", [a, b]);
export const neg = (x: Value): Value => apply1("neg", [x]);
export const exp = (x: Value): Value => apply1("exp", [x]);
export const log = (x: Value): Value => apply1("log", [x]);
export const sqrt = (x: Value): Value => apply1("sqrt", [x]);
export const sin = (x: Value): Value => apply1("sin", [x]);
export const cos = (x: Value): Value => apply1("cos", [x]);
export const tanh = (x: Value): Value => apply1("tanh", [x]);
export const erf = (x: Value): Value => apply1("erf", [x]);
export const sigmoid = (x: Value): Value => apply1("sigmoid", [x]);
/** x·σ(x), the swish of SwiGLU (Ramachandran et al. 2017). */
export const silu = (x: Value): Value => apply1("silu", [x]);
/** x·Φ(x) (Hendrycks & Gimpel 2016), exactly or by the tanh form of GPT-2. */
export const gelu = (x: Value, approximate: "none" | "tanh"): Value => apply1("gelu", [x], { approximate });
export const less = (a: Value, b: Value): Value => apply1("less", [a, b]);
export const equal = (a: Value, b: Value): Value => apply1("equal", [a, b]);
export const and = (a: Value, b: Value): Value => apply1("and", [a, b]);
/** `condition ? a : b`, elementwise. */
export const where = (condition: Value, a: Value, b: Value): Value => apply1("where", [condition, a, b]);
export const cast = (x: Value, to: ElementType): Value => apply1("cast", [x], { to });
/** x, a constant in the backward pass (torch's `detach`). */
export const detach = (x: Value): Value => apply1("detach", [x]);

export function broadcastShapes(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i): Dim => {
    const left = a[a.length - rank + i] ?? 1;
    const right = b[b.length - rank + i] ?? 1;
    expect(left === right || left === 1 || right === 1, `dims ${left} and ${right} do not broadcast`);
    return left === 1 ? right : left;
  });
}

/** Sums a gradient back to the shape that was broadcast to it. */
export function sumTo(gradient: Value, shape: Shape): Value {
  if (sameShape(gradient.shape, shape)) return gradient;
  const lead = gradient.shape.length - shape.length;
  const axes = gradient.shape.flatMap((dim, i) => (i < lead || (shape[i - lead] === 1 && dim !== 1) ? [i] : []));
  return reshape(reduceSum(gradient, axes), shape);
}

function broadcast(inputs: readonly Type[], dtype?: ElementType): readonly Type[] {
  const [a, b] = inputs as [Type, Type];
  expect(a.dtype === b.dtype, "the operands differ in dtype");
  return [{ dtype: dtype ?? a.dtype, shape: broadcastShapes(a.shape, b.shape) }];
}

type Binary = (a: Value, b: Value, d: Value, y: Value) => [Value, Value];

const binary = (onnx: string, gradient: Binary): OpRule => ({
  infer: (inputs) => broadcast(inputs),
  vjp: ({ inputs: [a, b], outputs }, [d]) => {
    const [da, db] = gradient(a!, b!, d!, outputs[0]!);
    return [sumTo(da, a!.shape), sumTo(db, b!.shape)];
  },
  lower: (emit, _, inputs) => [emit.node(onnx, inputs)],
});

const unary = (onnx: string, gradient: (x: Value, d: Value, y: Value) => Value): OpRule => ({
  infer: ([x]) => [x!],
  vjp: ({ inputs: [x], outputs }, [d]) => [gradient(x!, d!, outputs[0]!)],
  lower: (emit, _, inputs) => [emit.node(onnx, inputs)],
});

const comparison = (onnx: string): OpRule => ({
  infer: (inputs) => broadcast(inputs, "bool"),
  vjp: null,
  lower: (emit, _, inputs) => [emit.node(onnx, inputs)],
});

/** σ + y(1-σ), with y = x·σ: three passes fewer than the textbook form. */
function siluGradient(x: Value, d: Value, y: Value): Value {
  const s = sigmoid(x);
  return mul(d, add(s, sub(y, mul(y, s))));
}

/** √(2/π) and the cubic term of GELU's tanh form. */
const TANH_SCALE = Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;

/** Φ(x) + x·Φ'(x). */
function geluGradient(x: Value, d: Value, approximate: "none" | "tanh"): Value {
  const number = (value: number) => scalar(value, x);
  const half = (y: Value) => mul(number(0.5), add(number(1), y));
  if (approximate === "none") {
    const density = mul(number(1 / Math.sqrt(2 * Math.PI)), exp(mul(number(-0.5), mul(x, x))));
    return mul(d, add(half(erf(mul(x, number(Math.SQRT1_2)))), mul(x, density)));
  }
  const square = mul(x, x);
  const t = tanh(mul(x, add(number(TANH_SCALE), mul(number(TANH_SCALE * CUBIC), square))));
  const slope = add(number(TANH_SCALE), mul(number(3 * TANH_SCALE * CUBIC), square));
  return mul(d, add(half(t), mul(mul(number(0.5), x), mul(sub(number(1), mul(t, t)), slope))));
}

export const elementwiseRules = {
  add: binary("Add", (_a, _b, d) => [d, d]),
  sub: binary("Sub", (_a, _b, d) => [d, neg(d)]),
  mul: binary("Mul", (a, b, d) => [mul(d, b), mul(d, a)]),
  div: binary("Div", (_a, b, d, y) => [div(d, b), neg(div(mul(d, y), b))]),
  neg: unary("Neg", (_x, d) => neg(d)),
  exp: unary("Exp", (_x, d, y) => mul(d, y)),
  log: unary("Log", (x, d) => div(d, x)),
  sqrt: unary("Sqrt", (_x, d, y) => div(mul(d, scalar(0.5, d)), y)),
  sin: unary("Sin", (x, d) => mul(d, cos(x))),
  cos: unary("Cos", (x, d) => neg(mul(d, sin(x)))),
  tanh: unary("Tanh", (_x, d, y) => mul(d, sub(scalar(1, d), mul(y, y)))),
  erf: unary("Erf", (x, d) => mul(d, mul(scalar(2 / Math.sqrt(Math.PI), d), exp(neg(mul(x, x)))))),
  gelu: {
    infer: ([x]) => [x!],
    vjp: ({ inputs: [x], attributes }, [d]) => [geluGradient(x!, d!, attributes.approximate)],
    lower: (emit, node, inputs) => [emit.node("Gelu", inputs, { approximate: node.attributes.approximate })],
  },
  sigmoid: unary("Sigmoid", (_x, d, y) => mul(d, sub(y, mul(y, y)))),
  silu: {
    ...unary("", siluGradient),
    lower: (emit, node, [x]) => [
      node.outputs[0]!.dtype === "float32"
        ? emit.node("QuickGelu", [x!], { alpha: 1 })
        : emit.node("Mul", [x!, emit.node("Sigmoid", [x!])]),
    ],
  },
  less: comparison("Less"),
  equal: comparison("Equal"),
  and: comparison("And"),
  where: {
    infer: ([c, a, b]) => {
      expect(c!.dtype === "bool", "the condition is not bool");
      const [chosen] = broadcast([a!, b!]);
      return [{ dtype: chosen!.dtype, shape: broadcastShapes(c!.shape, chosen!.shape) }];
    },
    vjp: ({ inputs: [c, a, b] }, [d]) => [
      null,
      sumTo(where(c!, d!, scalar(0, d!)), a!.shape),
      sumTo(where(c!, scalar(0, d!), d!), b!.shape),
    ],
    lower: (emit, _, inputs) => [emit.node("Where", inputs)],
  },
  cast: {
    infer: ([x], a) => [{ dtype: a.to, shape: x!.shape }],
    vjp: ({ inputs: [x] }, [d]) => [x!.dtype.startsWith("float") ? cast(d!, x!.dtype) : null],
    lower: (emit, node, inputs) => [emit.cast(inputs[0]!, node.attributes.to)],
  },
  detach: {
    infer: ([x]) => [x!],
    vjp: () => [],
    lower: (_emit, _node, [x]) => [x!],
  },
} satisfies Record<string, OpRule>;
