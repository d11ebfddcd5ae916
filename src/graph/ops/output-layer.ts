// The output layer with its cross-entropy, which never holds [tokens, vocab] logits or probabilities.
import { type Dim, sameShape } from "../dims.ts";
import type { Emitter } from "../emitter.ts";
import { type Attributes, apply, expect, type Node, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, tanh } from "./elementwise.ts";
import { scalar } from "./leaves.ts";
import { column, exponentials, flat, lossesOf } from "./loss.ts";
import { productOfIntegers, type QuantisedRows, quantisedRows, rotated, transposedWeight, widenedRows } from "./rotated.ts";
import { type FormName, forms, holds, partCount, wideShape } from "./stored.ts";

/** The least sum that is divided by. */
const TINY = 1e-30;

interface FusedAttributes {
  /** The output layer's module name, by which LoRA finds it. */
  path: string;
  /** Chunks of rows of x. */
  chunks: number;
  /** Chunks of rows of W, the vocabulary. */
  vocabChunks: number;
  /** The form W is kept in, if not in the type of x. */
  form?: FormName;
  /** Logits of W become softcap · tanh(logit / softcap) (Gemma 2). */
  softcap?: number;
  /** Rows of W whose logits do not count; no label is one of them. */
  without?: readonly number[];
}

/** A logit that does not count. */
const NEVER = -1e30;

/**
 * crossEntropies(x · Wᵀ, labels) for a frozen output layer W [vocab, dim]: x [n, dim], int32 labels [n] → [n]. The gradient of x comes
 * out of the same pass: dx = softmax · W - W[label] in each row. W is met a chunk at a time, and what is summed so far is scaled to the
 * largest logit so far (Milakov and Gimelshein 2018), so that neither all logits nor, where it is `stored`, all of W exist at once. W
 * itself gets no gradient, so a graph that trains it uses `linear` and `crossEntropies`. `further` are logits [n, added] behind those of W,
 * few of them, with a gradient of their own: of added words, or of rows of W that others stand for (`without`).
 */
export const linearCrossEntropy = (x: Value, weight: Value, labels: Value, attributes: FusedAttributes, further?: Value): Value =>
  apply("linearCrossEntropy", [x, weight, labels, ...(further ? [further] : [])], { ...attributes })[0]!;

/** The inputs of the op by what they are; `parts` hold W. */
export function fusedInputs<T>(inputs: readonly T[], form: FormName | undefined): { x: T; parts: T[]; labels: T; further?: T } {
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

/** e · W + h for a chunk of W, where h is what is known so far. */
type PullBack = (e: string, h?: string) => string;

/** Adds logits, and with `pullBack` their product with W, to what is known; slopes are those of capped logits. */
function meet(emit: Emitter, before: Running | undefined, { logits, slope }: Capped, pullBack?: PullBack): Running {
  const { e, z, max } = exponentials(emit, logits, before?.max);
  const shrink = before && emit.node("Exp", [emit.node("Sub", [before.max, max])]); // [rows, 1]
  const known = (value: string | undefined) => (shrink && value ? emit.node("Mul", [value, shrink]) : undefined);
  const zBefore = known(before?.z);
  return { max, z: emit.sum(zBefore ? [zBefore, z] : [z]), h: pullBack?.(times(emit, e, slope), known(before?.h)) };
}

/** Products with a chunk of W: of rows of x, by a function that cuts what belongs to them, and of exponentials. */
interface Chunk {
  logits(rows: (value: string) => string): string;
  pullBack: PullBack;
}

/** W in float32 [height, dim]. */
const floatChunk = (emit: Emitter, x: string, weight: string): Chunk => ({
  logits: (rows) => emit.node("Gemm", [rows(x), weight], { transB: 1 }), // [rows, height]
  pullBack: (e, h) => emit.node("Gemm", [e, weight, ...(h ? [h] : [])]), // [rows, dim]
});

/**
 * What x ≥ 0 [n, m] lost when its rows were rounded, as a product [n, 1] · [1, m] whose rows have the right sums. Most of a row's
 * probabilities are too small for 8 bits beside its largest; what they add up to over all rows is a direction of its own.
 */
function lost(emit: Emitter, x: string, rounded: QuantisedRows): { rows: string; mean: string } {
  const number = (value: number) => emit.constant("float32", [], [value]);
  const sum = (value: string, axis: number) => emit.node("ReduceSum", [value, emit.int64(axis)], { keepdims: 1 });
  const difference = emit.node("Sub", [x, widenedRows(emit, rounded, { isPositive: true })]);
  const columns = emit.node("Max", [sum(difference, 0), number(0)]); // [1, m]
  const total = emit.node("Max", [sum(columns, 1), number(TINY)]); // [1, 1]
  return { rows: sum(difference, 1), mean: emit.node("Div", [columns, total]) };
}

/** W rotated in int8 [height, dim], with the scale of each row [height, 1]: x is rotated too, and so is what is pulled back. */
function integerChunk(emit: Emitter, x: QuantisedRows, [w, scales]: readonly string[], shape: readonly [number, number]): Chunk {
  const wT = transposedWeight(emit, w!, shape);
  const scale = emit.node("Squeeze", [scales!, emit.int64(1)]); // [height]
  const timesRows = ({ q, scale }: QuantisedRows) =>
    emit.node("Mul", [productOfIntegers(emit, q, w!, { isPositive: true }), scale]); // [rows, dim]
  return {
    logits(rows) {
      const product = productOfIntegers(emit, wT.rows(rows(x.q)), wT.weight, { scale });
      return emit.node("Mul", [product, rows(x.scale)]);
    },
    pullBack(e, h) {
      const own = emit.node("Mul", [e, scale]); // [rows, height]
      const rounded = quantisedRows(emit, own, { isPositive: true });
      const rest = lost(emit, own, rounded);
      const product = emit.node("Gemm", [
        rest.rows,
        timesRows(quantisedRows(emit, rest.mean, { isPositive: true })),
        timesRows(rounded),
      ]);
      return h ? emit.node("Add", [product, h]) : product;
    },
  };
}

const times = (emit: Emitter, value: string, slope: string | undefined) => (slope ? emit.node("Mul", [value, slope]) : value);

/** A zero that is known only after `values` are: what adds it to its bounds runs later. */
function zeroAfter(emit: Emitter, values: readonly string[]): string {
  const sizes = values.map((value) => emit.node("Shape", [value], { start: 0, end: 1 }));
  return emit.node("Mul", [sizes.length === 1 ? sizes[0]! : emit.node("Max", sizes), emit.int64(0)]);
}

/** Rows of W in each chunk of the vocabulary. */
export function chunkHeights(vocab: number, vocabChunks: number): number[] {
  const height = Math.ceil(vocab / vocabChunks);
  return Array.from({ length: Math.ceil(vocab / height) }, (_, i) => Math.min(height, vocab - i * height));
}

/**
 * Each tile of logits waits for the one before, and each chunk of W for the last tile of the chunk before: one of each is alive. With
 * `integers`, which are x rotated, h comes out rotated.
 */
function lowerTiles(
  emit: Emitter,
  node: Node,
  names: readonly string[],
  attributes: FusedAttributes,
  wanted: Wanted,
  { integers, before }: { integers?: QuantisedRows; before?: Running } = {},
): Running {
  const { chunks, vocabChunks, softcap, form, without = [] } = attributes;
  const { x, parts, ...others } = fusedInputs(names, form);
  const further = before ? undefined : others.further;
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
  const heights = chunkHeights(vocab, vocabChunks);
  const height = heights[0]!;
  // The engine cuts its own weight when it loads it, and packs each chunk.
  const isOwn = !form && node.inputs[1]!.node.op === "weight" && heights.length > 1;
  const sizes = () => emit.constant("int64", [heights.length], heights);
  const packed = isOwn ? emit.nodes("Split", [parts[0]!, sizes()], heights.length, { axis: 0 }) : [];
  const chunkOf = (i: number): Chunk => {
    if (packed[i]) return floatChunk(emit, x, packed[i]);
    const [start, end] = [i * height, i * height + heights[i]!];
    const cut = (part: string) => emit.slice(part, 0, from(emit.int64(start), after), emit.int64(end));
    const own = heights.length === 1 ? parts : parts.map(cut);
    if (integers) return integerChunk(emit, integers, own, [heights[i]!, dim]);
    return floatChunk(emit, x, form ? forms[form].widen(emit, own, [heights[i]!, dim]) : own[0]!);
  };
  const known = Array.from({ length: chunks }, (_, i): Running | undefined => {
    if (before) return { max: rows(before.max, i), z: rows(before.z, i), h: before.h && rows(before.h, i) };
    return further ? meet(emit, undefined, { logits: rows(further, i) }) : undefined;
  });
  /** What is added to the logits of a chunk where some of its rows do not count, [1, height]. */
  const maskOf = (at: number): string | null => {
    const own = without.map((row) => row - at * height).filter((row) => row >= 0 && row < heights[at]!);
    if (own.length === 0) return null;
    const values = new Array<number>(heights[at]!).fill(0);
    for (const row of own) values[row] = NEVER;
    return emit.constant(types.x.dtype, [1, heights[at]!], values);
  };
  for (const at of heights.keys()) {
    const chunk = chunkOf(at);
    const mask = maskOf(at);
    for (let i = 0; i < chunks; i++) {
      const logits = chunk.logits((value) => rows(value, i, after));
      const seen = capped(emit, types.x, logits, softcap);
      if (mask) seen.logits = emit.node("Add", [seen.logits, mask]);
      const met = meet(emit, known[i], seen, wanted.x ? chunk.pullBack : undefined);
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
  const shape = [type.shape[0]!, dim];
  const integers = integersOf(emit, x, shape, form);
  const met = lowerTiles(emit, node, names, attributes, wanted, { integers });
  const more = further === undefined ? undefined : { logits: further, ...furtherLabels(emit, type.dtype, labels, vocab) }; // [n, added]
  const within = more ? emit.node("Min", [labels, emit.constant("int32", [], [vocab - 1])]) : labels;
  const rows = parts.map((part) => emit.node("Gather", [part, within]));
  return lowerLoss(emit, { x, type, dim, rows, met, integers, more, softcap, form }, wanted);
}

/** x rotated in 8 bits, where W is met so. */
const integersOf = (emit: Emitter, x: string, shape: readonly Dim[], form: FormName | undefined): QuantisedRows | undefined =>
  form === "int8rows" ? quantisedRows(emit, rotated(emit, x, shape), { rows: shape[0]! }) : undefined;

/** What the losses are made of once all of W is met. */
interface Met extends Pick<FusedAttributes, "softcap" | "form"> {
  x: string;
  /** That of x, whose rows have `dim` elements. */
  type: Type;
  dim: number;
  /** The parts of W[label]. */
  rows: readonly string[];
  met: Running;
  integers?: QuantisedRows;
  more?: { logits: string; place: string; own: string };
}

/** The losses, and the gradients that are wanted. */
function lowerLoss(
  emit: Emitter,
  { x, type, dim, rows, met: { max, z, h }, integers, more, softcap, form }: Met,
  wanted: Wanted,
): string[] {
  const shape: [Dim, number] = [type.shape[0]!, dim];
  const own = form ? forms[form].widen(emit, rows, shape) : rows[0]!; // W[label]: [n, dim]
  // Zero for a label beyond W.
  const target = more ? emit.node("Mul", [own, emit.node("Sub", [emit.constant(type.dtype, [], [1]), more.own])]) : own;
  const seen = integers ? rotated(emit, widenedRows(emit, integers), shape) : x; // x as the logits above have it
  const product = emit.node("ReduceSum", [emit.node("Mul", [seen, target]), emit.int64(1)], { keepdims: 1 });
  const chosen = capped(emit, type, product, softcap); // [n, 1]
  const other = more && emit.node("Mul", [emit.node("GatherElements", [more.logits, more.place], { axis: 1 }), more.own]);
  const losses = lossesOf(emit, z, max, other ? emit.node("Add", [chosen.logits, other]) : chosen.logits);

  const pulled = h && emit.node("Div", [h, z]);
  const mean = pulled && integers ? rotated(emit, pulled, shape) : pulled; // Σ softmax · W: [n, dim]
  const dx = mean ? emit.node("Sub", [mean, times(emit, target, chosen.slope)]) : "";
  if (!more || !wanted.further) return [flat(emit, losses), ...(h ? [dx] : [])];
  const probabilities = emit.node("Div", [emit.node("Exp", [emit.node("Sub", [more.logits, max])]), z]);
  const taken = emit.node("Neg", [more.own]);
  return [
    flat(emit, losses),
    dx,
    emit.node("ScatterElements", [probabilities, more.place, taken], { axis: 1, reduction: "add" }),
  ];
}

/** The inputs of `outputChunk` and `outputLoss`: rows of W in the middle, and what is known after some chunks. */
function chunkInputs<T>(inputs: readonly T[], form: FormName | undefined): { x: T; parts: T[]; known: T[] } {
  const end = 1 + (form ? partCount(form) : 1);
  return { x: inputs[0]!, parts: inputs.slice(1, end), known: inputs.slice(end) };
}

const runningOf = ([max, z, h]: readonly string[]): Running | undefined => (max ? { max, z: z!, h } : undefined);

/**
 * `linearCrossEntropy` as a chain of nodes, each of which meets a chunk of the vocabulary, and one that makes losses and the gradient of x of
 * what they return: chunks `weights[i]` of W's parts, and `rows`, the parts of W[label]. Without further logits. `met` are the values
 * between the nodes.
 */
export function outputChain(
  x: Value,
  weights: readonly (readonly Value[])[],
  rows: readonly Value[],
  { chunks, form, softcap }: Pick<FusedAttributes, "chunks" | "form" | "softcap">,
): { met: Value[][]; outputs: readonly Value[] } {
  const attributes = { ...(form && { form }), ...(softcap && { softcap }) };
  const met: Value[][] = [];
  for (const parts of weights) {
    const known = met.at(-1) ?? [];
    met.push([...apply("outputChunk", [x, ...parts, ...known], { ...attributes, chunks, vocabChunks: 1 })]);
  }
  return { met, outputs: apply("outputLoss", [x, ...rows, ...met.at(-1)!], attributes) };
}

export const outputLayerRules = {
  /** x [n, dim], a chunk of W, and what is known after those before → the same: max [n, 1], z [n, 1], h [n, dim] (`Running`). */
  outputChunk: {
    infer: (inputs, { form }) => {
      const { x, parts } = chunkInputs(inputs, form);
      expect(!form || holds(form, parts), `the parts are not those of ${form}`);
      expect(x.shape[1] === weightShape(parts[0]!, form)[1], "it takes x [n, dim] and W [vocab, dim]");
      const column = { dtype: x.dtype, shape: [x.shape[0]!, 1] };
      return [column, column, x];
    },
    vjp: null,
    lower: (emit, node, inputs) => {
      const attributes = node.attributes as FusedAttributes;
      const { x, known } = chunkInputs(inputs, attributes.form);
      const integers = integersOf(emit, x, node.inputs[0]!.shape, attributes.form);
      const wanted = { x: emit.isUsed(node.outputs[2]!), further: false };
      const { max, z, h = "" } = lowerTiles(emit, node, inputs, attributes, wanted, { integers, before: runningOf(known) });
      return [max, z, h];
    },
  },
  /** x [n, dim], W[label], and what is known after all chunks → losses [n] and dx [n, dim]. */
  outputLoss: {
    infer: ([x]) => [{ dtype: x!.dtype, shape: [x!.shape[0]!] }, x!],
    vjp: null,
    lower: (emit, node, inputs) => {
      const { form, softcap } = node.attributes as FusedAttributes;
      const { x, parts: rows, known } = chunkInputs(inputs, form);
      const type = node.inputs[0]!;
      const integers = integersOf(emit, x, type.shape, form);
      const wanted = { x: emit.isUsed(node.outputs[1]!), further: false };
      const met = { ...runningOf(known)!, ...(!wanted.x && { h: undefined }) };
      return lowerLoss(emit, { x, type, dim: Number(type.shape[1]), rows, met, integers, softcap, form }, wanted);
    },
  },
  linearCrossEntropy: {
    infer: (inputs, { form }) => {
      const { x, parts, labels, further } = fusedInputs(inputs, form);
      expect(!form || holds(form, parts), `the parts are not those of ${form}`);
      expect(x.shape.length === 2 && parts[0]!.shape.length === 2, "it takes x [n, dim] and W [vocab, dim]");
      expect(x.shape[1] === weightShape(parts[0]!, form)[1], "it takes x [n, dim] and W [vocab, dim]");
      expect(labels.dtype === "int32" && sameShape(labels.shape, [x.shape[0]!]), "there is not one int32 label a row");
      const losses = { dtype: x.dtype, shape: labels.shape };
      if (!further) return [losses, x];
      expect(further.shape.length === 2 && further.shape[0] === x.shape[0], "there is not one row of further logits for a row");
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
