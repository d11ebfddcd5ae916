// Cross-entropy, and its fusion with the output layer, which never holds [tokens, vocab] probabilities.

import { type Dim, sameShape } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { type Attributes, apply, apply1, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, tanh } from "./elementwise.ts";
import { scalar } from "./leaves.ts";
import { sumOf } from "./reduction.ts";
import { reshape } from "./shape.ts";
import { type FormName, forms, holds, partCount, wideShape } from "./stored.ts";

/** -log softmax(logits)[label] of each row: logits [n, vocab], int32 labels [n] → [n]. */
export const crossEntropies = (logits: Value, labels: Value): Value => apply1("crossEntropy", [logits, labels]);
/** Their sum over the rows: a scalar. */
export const crossEntropy = (logits: Value, labels: Value): Value => sumOf(crossEntropies(logits, labels));

interface FusedAttributes {
  /** The output layer's module name, by which LoRA finds it. */
  path: string;
  /** Chunks of rows of x. */
  chunks: number;
  /** Chunks of rows of W, the vocabulary. */
  vocabChunks: number;
  /** The form W is kept in, if not in the type of x. */
  form?: FormName;
  /** Logits become softcap · tanh(logit / softcap) (Gemma 2); not with `further` logits. */
  softcap?: number;
}

/**
 * crossEntropies(x · Wᵀ, labels) for a frozen output layer W [vocab, dim]: x [n, dim], int32 labels [n] → [n]. The gradient of x comes
 * out of the same pass: dx = softmax · W - W[label] in each row. W is met a chunk at a time, and what is summed so far is scaled to the
 * largest logit so far (Milakov and Gimelshein 2018), so that neither all logits nor, where it is `stored`, all of W exist at once. W
 * itself gets no gradient, so a graph that trains it uses `linear` and `crossEntropies`. `further` are logits [n, added] behind those of W,
 * few of them, with a gradient of their own.
 */
export const linearCrossEntropy = (x: Value, weight: Value, labels: Value, attributes: FusedAttributes, further?: Value): Value =>
  apply("linearCrossEntropy", [x, weight, labels, ...(further ? [further] : [])], { ...attributes })[0]!;

/** The inputs of the op by what they are; `parts` hold W. */
function fusedInputs<T>(inputs: readonly T[], form: FormName | undefined): { x: T; parts: T[]; labels: T; further?: T } {
  const end = 1 + (form ? partCount(form) : 1);
  return { x: inputs[0]!, parts: inputs.slice(1, end), labels: inputs[end]!, further: inputs[end + 1] };
}

/** The inputs and attributes of the op where its W is what the parts of a `widen` hold. */
export function withParts(inputs: readonly Value[], attributes: Attributes): { inputs: Value[]; attributes: Attributes } | null {
  const [x, weight, ...others] = inputs as [Value, Value, ...Value[]];
  if (weight.node.op !== "widen") return null;
  return { inputs: [x, ...weight.node.inputs, ...others], attributes: { ...attributes, form: weight.node.attributes["form"]! } };
}

/** Vocabulary and dimensions of W, as its first part's shape says. */
const weightShape = ({ shape }: Type, form: FormName | undefined): [Dim, number] =>
  form ? wideShape(form, shape) : [shape[0]!, Number(shape[1])];

/** softcap · tanh(logits / softcap), elementwise. */
export function capLogits(logits: Value, softcap: number): Value {
  return mul(tanh(mul(logits, scalar(1 / softcap, logits))), scalar(softcap, logits));
}

/** log Z + max - logits[label], given the pieces of a stable softmax, each [n, 1] as it is itself. */
const lossesOf = (emit: Emitter, z: string, max: string, chosen: string): string =>
  emit.node("Sub", [emit.node("Add", [emit.node("Log", [z]), max]), chosen]);

/** A column [n, 1] as [n]. */
const flat = (emit: Emitter, column: string): string => emit.node("Squeeze", [column, emit.int64(1)]);

/** Stable exponentials of logits [n, …]: the largest logit [n, 1], one of those `before` too, exp(logits - largest), and their sum [n, 1]. */
function exponentials(emit: Emitter, logits: string, before?: string): { e: string; z: string; max: string } {
  const largest = emit.node("ReduceMax", [logits, emit.int64(1)], { keepdims: 1 });
  const max = before ? emit.node("Max", [before, largest]) : largest;
  const e = emit.node("Exp", [emit.node("Sub", [logits, max])]);
  return { e, z: emit.node("ReduceSum", [e, emit.int64(1)], { keepdims: 1 }), max };
}

/** Logits as the loss sees them and, where they are capped, 1 - tanh², by which the gradient shrinks. */
interface Capped {
  logits: string;
  slope?: string;
}

function capped(emit: Emitter, type: Type, logits: string, softcap: number | undefined): Capped {
  if (!softcap) return { logits };
  const number = (value: number) => emit.constant(type.dtype, [], [value]);
  const t = emit.node("Tanh", [emit.node("Mul", [logits, number(1 / softcap)])]);
  return {
    logits: emit.node("Mul", [t, number(softcap)]),
    slope: emit.node("Sub", [number(1), emit.node("Mul", [t, t])]),
  };
}

/** Of labels [c] those of the further logits, [c, 1]: their place among them (0 for the others) and whether they are, as 0 or 1. */
function furtherLabels(emit: Emitter, dtype: Type["dtype"], labels: string, vocab: number): { place: string; own: string } {
  const first = emit.constant("int32", [], [vocab]);
  const column = emit.node("Unsqueeze", [labels, emit.int64(1)]);
  const place = emit.node("Max", [emit.node("Sub", [column, first]), emit.constant("int32", [], [0])]);
  return { place, own: emit.cast(emit.node("GreaterOrEqual", [column, first]), dtype) };
}

/** [n] as a column [n, 1], which goes with the rows of a matrix. */
const column = (x: Value): Value => reshape(x, [...x.shape, 1]);

/** Which gradients the graph reads. */
interface Wanted {
  x: boolean;
  further: boolean;
}

/** What is known of a chunk of rows after some chunks of logits. */
interface Running {
  /** The largest logit, [rows, 1]. */
  max: string;
  /** Σ exp(logit - max), [rows, 1]. */
  z: string;
  /** Σ exp(logit - max) · W, [rows, dim]. */
  h?: string;
}

/** Adds logits, and with `weight` their product, to what is known; slopes are those of capped logits. */
function meet(emit: Emitter, before: Running | undefined, { logits, slope }: Capped, weight?: string): Running {
  const { e, z, max } = exponentials(emit, logits, before?.max);
  const shrink = before && emit.node("Exp", [emit.node("Sub", [before.max, max])]); // [rows, 1]
  const known = (value: string | undefined) => (shrink && value ? [emit.node("Mul", [value, shrink])] : []);
  const h = weight && emit.node("Gemm", [times(emit, e, slope), weight, ...known(before?.h)]);
  return { max, z: emit.sum([...known(before?.z), z]), h };
}

const times = (emit: Emitter, value: string, slope: string | undefined) => (slope ? emit.node("Mul", [value, slope]) : value);

/** A zero that is known only after `values` are: what adds it to its bounds runs later. */
function zeroAfter(emit: Emitter, values: readonly string[]): string {
  const sizes = values.map((value) => emit.node("Shape", [value], { start: 0, end: 1 }));
  return emit.node("Mul", [sizes.length === 1 ? sizes[0]! : emit.node("Max", sizes), emit.int64(0)]);
}

/** Each tile of logits waits for the one before, and each chunk of W for the last tile of the chunk before: one of each is alive. */
function lowerTiles(emit: Emitter, node: Node, names: readonly string[], attributes: FusedAttributes, wanted: Wanted): Running {
  const { chunks, vocabChunks, softcap, form } = attributes;
  const { x, parts, further } = fusedInputs(names, form);
  const types = fusedInputs(node.inputs, form);
  const [n, [vocab, dim]] = [emit.dim(types.x.shape[0]!), weightShape(types.parts[0]!, form) as [number, number]];
  const size = emit.node("Div", [emit.node("Add", [n, emit.int64(chunks - 1)]), emit.int64(chunks)]);
  let after: string | undefined;
  const from = (start: string, after: string | undefined) => (after ? emit.node("Add", [start, after]) : start);
  const rows = (value: string, i: number, after?: string) => {
    if (chunks === 1 && !after) return value;
    const [start, end] = [i, i + 1].map((k) => emit.shared("Mul", [size, emit.int64(k)])) as [string, string];
    return emit.slice(value, 0, from(start, after), end); // Slice clamps the ends
  };
  const height = Math.ceil(vocab / vocabChunks);
  const heights = Array.from({ length: Math.ceil(vocab / height) }, (_, i) => Math.min(height, vocab - i * height));
  // The engine cuts its own weight when it loads it, and packs each chunk.
  const isOwn = !form && node.inputs[1]!.node.op === "weight" && heights.length > 1;
  const sizes = () => emit.constant("int64", [heights.length], heights);
  const packed = isOwn ? emit.nodes("Split", [parts[0]!, sizes()], heights.length, { axis: 0 }) : [];
  const weightRows = (i: number): string => {
    const [start, end] = [i * height, i * height + heights[i]!];
    const cut = (part: string) => emit.slice(part, 0, from(emit.int64(start), after), emit.int64(end));
    const own = heights.length === 1 ? parts : parts.map(cut);
    return form ? forms[form].widen(emit, own, [heights[i]!, dim]) : own[0]!;
  };
  const known = Array.from({ length: chunks }, (_, i): Running | undefined =>
    further ? meet(emit, undefined, { logits: rows(further, i) }) : undefined,
  );
  for (const at of heights.keys()) {
    const weight = packed[at] ?? weightRows(at); // [height, dim]
    for (let i = 0; i < chunks; i++) {
      const logits = emit.node("Gemm", [rows(x, i, after), weight], { transB: 1 }); // [rows, height]
      const met = meet(emit, known[i], capped(emit, types.x, logits, softcap), wanted.x ? weight : undefined);
      after = zeroAfter(emit, met.h ? [met.z, met.h] : [met.z]);
      known[i] = met;
    }
  }
  const joined = (key: "max" | "z" | "h") =>
    emit.concat(
      known.map((one) => one![key]!),
      0,
    );
  return { max: joined("max"), z: joined("z"), h: wanted.x ? joined("h") : undefined };
}

function lowerFused(emit: Emitter, node: Node, names: readonly string[], attributes: FusedAttributes, wanted: Wanted): string[] {
  const { softcap, form } = attributes;
  const { x, parts, labels, further } = fusedInputs(names, form);
  const types = fusedInputs(node.inputs, form);
  const type = types.x;
  const [vocab, dim] = weightShape(types.parts[0]!, form) as [number, number];
  const { max, z, h } = lowerTiles(emit, node, names, attributes, wanted);

  const more = further && { logits: further, ...furtherLabels(emit, type.dtype, labels, vocab) }; // [n, added]
  const within = more ? emit.node("Min", [labels, emit.constant("int32", [], [vocab - 1])]) : labels;
  const rows = parts.map((part) => emit.node("Gather", [part, within]));
  const own = form ? forms[form].widen(emit, rows, [type.shape[0]!, dim]) : rows[0]!; // W[label]: [n, dim]
  // Zero for a label beyond W.
  const target = more ? emit.node("Mul", [own, emit.node("Sub", [emit.constant(type.dtype, [], [1]), more.own])]) : own;
  const product = emit.node("ReduceSum", [emit.node("Mul", [x, target]), emit.int64(1)], { keepdims: 1 });
  const chosen = capped(emit, type, product, softcap); // [n, 1]
  const other = more && emit.node("Mul", [emit.node("GatherElements", [more.logits, more.place], { axis: 1 }), more.own]);
  const losses = lossesOf(emit, z, max, other ? emit.node("Add", [chosen.logits, other]) : chosen.logits);

  const dx = h ? emit.node("Sub", [emit.node("Div", [h, z]), times(emit, target, chosen.slope)]) : ""; // [n, dim]
  if (!more || !wanted.further) return [flat(emit, losses), ...(h ? [dx] : [])];
  const probabilities = emit.node("Div", [emit.node("Exp", [emit.node("Sub", [more.logits, max])]), z]);
  const taken = emit.node("Neg", [more.own]);
  return [
    flat(emit, losses),
    dx,
    emit.node("ScatterElements", [probabilities, more.place, taken], { axis: 1, reduction: "add" }),
  ];
}

function takesLogits([logits, labels]: readonly Type[]): void {
  expect(logits!.shape.length === 2 && labels!.dtype === "int32", "it takes logits [n, vocab] and int32 labels");
  expect(sameShape(labels!.shape, [logits!.shape[0]!]), "there is not one label a row");
}

export const lossRules = {
  crossEntropy: {
    infer: (inputs) => {
      takesLogits(inputs);
      return [{ dtype: inputs[0]!.dtype, shape: inputs[1]!.shape }];
    },
    vjp: ({ inputs: [logits, labels] }, [d]) => [mul(apply1("crossEntropyGradient", [logits!, labels!]), column(d!)), null],
    lower: (emit, _, [logits, labels]) => {
      const { z, max } = exponentials(emit, logits!);
      const chosen = emit.node("GatherElements", [logits!, emit.node("Unsqueeze", [labels!, emit.int64(1)])], { axis: 1 });
      return [flat(emit, lossesOf(emit, z, max, chosen))];
    },
  },
  crossEntropyGradient: {
    infer: (inputs) => {
      takesLogits(inputs);
      return [inputs[0]!];
    },
    vjp: null,
    lower: (emit, node, [logits, labels]) => {
      const places = emit.node("Unsqueeze", [labels!, emit.int64(1)]);
      const one = emit.node("Expand", [emit.constant(node.inputs[0]!.dtype, [], [-1]), emit.node("Shape", [places])]);
      const probabilities = emit.node("Softmax", [logits!], { axis: -1 });
      return [emit.node("ScatterElements", [probabilities, places, one], { axis: 1, reduction: "add" })];
    },
  },
  linearCrossEntropy: {
    infer: (inputs, { form, softcap }) => {
      const { x, parts, labels, further } = fusedInputs(inputs, form);
      expect(!form || holds(form, parts), `the parts are not those of ${form}`);
      expect(x.shape.length === 2 && parts[0]!.shape.length === 2, "it takes x [n, dim] and W [vocab, dim]");
      expect(x.shape[1] === weightShape(parts[0]!, form)[1], "it takes x [n, dim] and W [vocab, dim]");
      expect(labels.dtype === "int32" && sameShape(labels.shape, [x.shape[0]!]), "there is not one int32 label a row");
      const losses = { dtype: x.dtype, shape: labels.shape };
      if (!further) return [losses, x];
      expect(further.shape.length === 2 && further.shape[0] === x.shape[0], "there is not one row of further logits for a row");
      expect(!softcap, "further logits cannot be capped");
      return [losses, x, further];
    },
    vjp: ({ inputs, outputs: [, dx, dFurther] }, [d]) => {
      const each = column(d!);
      const own = dFurther ? [mul(dFurther, each)] : [];
      return [mul(dx!, each), ...inputs.slice(1 + own.length).map(() => null), ...own];
    },
    lower: (emit, node, inputs) => {
      const isRead = (i: number) => node.outputs[i] !== undefined && emit.isUsed(node.outputs[i]);
      return lowerFused(emit, node, inputs, node.attributes as FusedAttributes, { x: isRead(1), further: isRead(2) });
    },
  },
} satisfies Record<string, OpRule>;
