// Peak memory of training, from the graph: a walk over its nodes in order of execution that counts what is alive at each.
import type { BatchSize } from "../data/types.ts";
import { type Dim, polynomial } from "../graph/dims.ts";
import { type Graph, type Node, nodesOf, type Type, type Value } from "../graph/graph.ts";
import { type FormName, isQuick, wideShape } from "../graph/ops/stored.ts";
import { type Program, type Stage, type StageInput, schedule } from "../graph/stages.ts";
import { outlierInput } from "../graph/store.ts";
import { CACHE_LEAST_BYTES } from "../runtime/part-cache.ts";
import { STAGES_AHEAD } from "../runtime/streamed.ts";
import { passingWeights } from "../runtime/weights.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import { isAtBorder, isPool } from "./training-graph.ts";

/** The lengths behind the symbols of a training graph; with `chunks`, that number of chunks in place of what the loss was made with. */
export type SymbolLengths = Readonly<Record<string, number>>;

/** The number a dim stands for. */
export function lengthOf(dim: Dim, lengths: SymbolLengths): number {
  let sum = 0;
  for (const [monomial, coefficient] of polynomial(dim)) {
    sum += monomial
      .split("*")
      .reduce((product, symbol) => product * (symbol === "" ? 1 : symbolLength(symbol, lengths)), coefficient);
  }
  return sum;
}

function symbolLength(symbol: string, lengths: SymbolLengths): number {
  // Tokens that one expert of a mixture gets, if the router is even (models/experts.ts).
  const [routed, perToken, experts] = /^routed:.*@(\d+)\/(\d+)$/.exec(symbol) ?? [];
  if (routed !== undefined) return (lengthOf("batch*seq", lengths) * Number(perToken)) / Number(experts);
  const length = lengths[symbol];
  if (length === undefined) throw new RangeError(`no length is given for ${symbol}`);
  return length;
}

const elementsOf = ({ shape }: Type, lengths: SymbolLengths): number =>
  shape.reduce<number>((product, dim) => product * lengthOf(dim, lengths), 1);

const bytesOf = (type: Type, lengths: SymbolLengths): number => elementsOf(type, lengths) * bytesPerElement[type.dtype];

/** Ops whose output lies in their input's memory. */
const aliases = new Set(["reshape"]);
/** Ops that ONNX Runtime computes in place where the input's last reader is the op. */
const inPlace = new Set(["add", "sub", "mul", "div", "neg", "exp", "log", "sqrt", "sin", "cos", "sigmoid", "silu"]);
/** Leaves live outside of what a run allocates. */
const leaves = new Set(["input", "weight", "constant"]);

/** Query-key pairs of an op of attention in all heads, as if no block skipped any. */
const pairsOf = ({ inputs: [q, k] }: Node, lengths: SymbolLengths): number =>
  (elementsOf(q!, lengths) / lengthOf(q!.shape[3]!, lengths)) * lengthOf(k!.shape[2]!, lengths);

/** Bytes of the scores of an attention's largest block. */
const blockBytes = (node: Node, lengths: SymbolLengths): number =>
  (pairsOf(node, lengths) / Number(node.attributes["blocks"])) * bytesPerElement[node.inputs[0]!.dtype];

/** The share of the pairs that causal blocks meet. */
const metShare = ({ attributes: { causal, blocks } }: Node): number => (causal ? (Number(blocks) + 1) / (2 * Number(blocks)) : 1);

/** Bytes that an op allocates beside its outputs while it runs (what its row in the table lowers to). */
function workspace(node: Node, lengths: SymbolLengths): number {
  const bytes = (value: Value) => bytesOf(value, lengths);
  const { inputs, outputs, attributes } = node;
  switch (node.op) {
    case "attention": // scores, before the mask and after it, and with a cap tanh
      return (attributes["softcap"] ? 3 : 2) * blockBytes(node, lengths);
    case "attentionGradient": // P, dP and dP - δ, of which dS takes the place, of one block; with a cap also tanh and its slope
      return (attributes["softcap"] ? 5 : 3) * blockBytes(node, lengths);
    case "linearCrossEntropy": {
      // A tile's logits before and after the exponential, a chunk of W if it is stored, and of all rows h, h · scale and W[label].
      const { chunks, vocabChunks, form } = attributes as { chunks: number; vocabChunks: number; form?: string };
      const [rows, dim] = [0, 1].map((axis) => lengthOf(inputs[0]!.shape[axis]!, lengths)) as [number, number];
      const words = Math.ceil(lengthOf(inputs[1]!.shape[0]!, lengths) / vocabChunks);
      const tile = 2 * Math.ceil(rows / (lengths["chunks"] ?? chunks)) * words;
      return 4 * (tile + 3 * rows * dim + (form ? 2 * words * dim : 0));
    }
    case "outputChunk": {
      // The same, where the chunk is all of W that is there.
      const { chunks, form } = attributes as { chunks: number; form?: FormName };
      const [rows, dim] = [0, 1].map((axis) => lengthOf(inputs[0]!.shape[axis]!, lengths)) as [number, number];
      const { shape } = inputs[1]!;
      const words = lengthOf(form ? wideShape(form, shape)[0] : shape[0]!, lengths);
      return 4 * (2 * Math.ceil(rows / (lengths["chunks"] ?? chunks)) * words + 2 * rows * dim + (form ? 2 * words * dim : 0));
    }
    case "widen": // of 4 bits: numbers as bytes, and products before the least values are added
      return attributes["form"] === "int4" ? 1.25 * bytes(outputs[0]!) : 0;
    case "crossEntropy":
    case "crossEntropyGradient": // exponentials, or probabilities, beside the logits
      return bytes(inputs[0]!);
    case "scatterAddRows": // int64 indices of every element, and the zeros
      return 2 * bytes(inputs[0]!) + bytes(outputs[0]!);
    default:
      return 0;
  }
}

/** Whether ONNX Runtime computes it once when it loads the model, as GPT-2's transposed weights are. */
const isFolded = ({ op, inputs }: Node): boolean => op === "transpose" && inputs[0]!.node.op === "weight";

/** Most bytes of intermediate values that are alive at once when the nodes run in the order of `nodesOf`. */
function peakActivations(graph: Graph, lengths: SymbolLengths): number {
  const nodes = nodesOf(graph);
  const roots = new Map<Value, Value>(); // a value → the one whose memory it lies in
  const rootOf = (value: Value) => roots.get(value) ?? value;
  const lastUse = new Map<Value, number>();
  nodes.forEach((node, at) => {
    if (aliases.has(node.op)) roots.set(node.outputs[0]!, rootOf(node.inputs[0]!));
    for (const input of node.inputs) lastUse.set(rootOf(input), at);
  });
  for (const output of Object.values(graph.outputs)) lastUse.set(rootOf(output), Number.POSITIVE_INFINITY);

  let live = 0;
  let peak = 0;
  const size = (value: Value) => (leaves.has(value.node.op) || isFolded(value.node) ? 0 : bytesOf(value, lengths));
  nodes.forEach((node, at) => {
    if (leaves.has(node.op) || aliases.has(node.op) || isFolded(node)) return;
    const dying = [...new Set(node.inputs.map(rootOf))].filter((value) => lastUse.get(value) === at).map(size);
    const made = node.outputs.filter((value) => lastUse.has(value)).reduce((sum, value) => sum + size(value), 0);
    const reused = inPlace.has(node.op) && dying.includes(made) ? made : 0;
    peak = Math.max(peak, live + made - reused + workspace(node, lengths));
    live += made - dying.reduce((sum, bytes) => sum + bytes, 0);
  });
  return peak;
}

/**
 * Bytes of frozen weights that ONNX Runtime keeps, in float32: a packed copy for each direction in which a matrix is
 * multiplied (forward and, above the lowest adapter, backward), and the tensor itself where something else reads it.
 */
function weightBytes(graph: Graph): number {
  const kept = new Map<string, number>();
  const keep = (value: Value, how: string) => {
    const { op, inputs, attributes } = value.node;
    if (op === "transpose") keep(inputs[0]!, how);
    else if (op === "weight") kept.set(`${attributes["name"]} ${how}`, bytesOf(value, {}));
  };
  for (const node of nodesOf(graph)) {
    if (isFolded(node)) continue;
    const { op, inputs, outputs, attributes } = node;
    inputs.forEach((value, i) => {
      if ((op === "linear" || op === "gemm") && i === 1)
        keep(value, op === "linear" || attributes["transB"] ? "packed" : "packed back");
      else if (op === "linearCrossEntropy" && outputs.length > 1)
        for (const how of ["packed", "packed back", "whole"]) keep(value, how);
      else keep(value, "whole");
    });
  }
  return [...kept.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** Products of attention over all pairs: S and PV; S again, dP, dQ, dK and dV. */
const attentionProducts: Readonly<Record<string, number>> = { attention: 2, attentionGradient: 5 };

/** Floating-point operations of the products of a run: two for each multiplication of a matrix product. */
export function flopsOf(graph: Graph, lengths: SymbolLengths): number {
  const size = (value: Value) => elementsOf(value, lengths);
  let sum = 0;
  for (const node of nodesOf(graph)) {
    const { op, inputs, outputs, attributes } = node;
    const lastOf = (value: Value, axis: number) => lengthOf(value.shape.at(axis)!, lengths);
    if (op === "linear") sum += 2 * size(outputs[0]!) * lastOf(inputs[0]!, -1);
    else if (op === "gemm" || op === "matmul") sum += 2 * size(outputs[0]!) * lastOf(inputs[0]!, attributes["transA"] ? -2 : -1);
    else if (op in attentionProducts) {
      sum += 2 * attentionProducts[op]! * pairsOf(node, lengths) * metShare(node) * lastOf(inputs[0]!, -1);
    } else if (op === "linearCrossEntropy") sum += 4 * size(inputs[0]!) * lastOf(inputs[1]!, 0);
  }
  return sum;
}

/** Memory of a training run at its peak, in bytes. */
export interface MemoryEstimate {
  /** Node, the engine's library, what it keeps for each node of the graph; the decoder of images, and prepared ones that are kept. */
  process: number;
  /** The frozen base. */
  weights: number;
  /** θ, its gradient, the optimizer's moments, and the copies on the way to the engine and back. */
  trained: number;
  /** What the forward pass keeps for the backward pass, and what an op needs at work. */
  activations: number;
  total: number;
}

// The constants below are measured: `npm run check:plan` prints estimate and measurement side by side (docs/memory.md).
/** Node with this program and a tokenizer, before the engine. */
const PROCESS_BYTES = 100e6;
/** ONNX Runtime's library and one session. */
const ENGINE_BYTES = 60e6;
/** What a session keeps for a node of the graph. */
const NODE_BYTES = 12e3;
/** What decodes images, and prepared ones that wait to be collected. */
const DECODER_BYTES = 80e6;
/** Vectors as long as θ: θ, its first value, two moments, and θ and its gradient where the engine reads and writes. */
const THETA_VECTORS = 6;
/** The arena of ONNX Runtime leaves gaps. */
const ARENA_FACTOR = 1.1;
/** Copies of a batch's pixels: prepared, and put together. */
const PIXEL_COPIES = 2;
/** Copies of what an engine in a worker is fed: on its way, and there. */
const WORKER_COPIES = 2;

/** What a program runs with: trained parameters, whether its large weights are read anew at every step, and whether in a worker. */
export interface ProgramUse {
  trainable: number;
  streamed?: boolean;
  inWorker?: boolean;
  /** Whether the base is stored in 16 bits. */
  isSixteen?: boolean;
}

/** Peak memory of training by `program` at these lengths. */
export function trainingMemory(
  program: Program,
  { trainable, streamed = false, inWorker = false, isSixteen = true }: ProgramUse,
  lengths: SymbolLengths,
): MemoryEstimate {
  const { stages, results } = program;
  const feeds = new Map(
    stages.flatMap(({ inputs }) => inputs.flatMap(({ source, leaf }) => (source.kind === "feed" ? [[source.name, leaf]] : []))),
  );
  const bytesIn = (isWanted: (name: string) => boolean): number =>
    [...feeds].reduce((sum, [name, leaf]) => (isWanted(name) ? sum + bytesOf(leaf, lengths) : sum), 0);
  const pixels = bytesIn((name) => name === "pixelValues");
  const distinct = new Map(stages.map(({ graph }) => [shapeOf(graph), nodesOf(graph).length]));
  const nodes = [...distinct.values()].reduce((sum, count) => sum + count, 0);
  const process = PROCESS_BYTES + ENGINE_BYTES + NODE_BYTES * nodes + (pixels > 0 ? DECODER_BYTES : 0);
  const outliers = bytesIn((name) => outlierInput(name) !== null);
  const weights =
    outliers + givenBytes(stages, streamed, isSixteen) + stages.reduce((sum, { graph }) => sum + weightBytes(graph), 0);
  const trained = 4 * THETA_VECTORS * trainable;
  const pools = bytesIn(isPool);
  const given = pools + PIXEL_COPIES * pixels + (inWorker ? WORKER_COPIES * (pools + pixels) : 0);
  const asked = [...results.keys()].filter((name) => !isAtBorder(name));
  const live = peakValues(program, asked, lengths);
  const activations = ARENA_FACTOR * live + given;
  return { process, weights, trained, activations, total: process + weights + trained + activations };
}

/** A text that is the same for stages that share an executable. */
const shapeOf = (graph: Graph): string =>
  nodesOf(graph)
    .map(({ op, attributes }) => `${op}${JSON.stringify(attributes)}`)
    .join();

/** Most bytes of values that are alive at once, those inside a stage and those on the way between stages. */
function peakValues(program: Program, names: readonly string[], lengths: SymbolLengths): number {
  const { stages } = program;
  const sizes = new Map<number, number>();
  let live = 0;
  let peak = 0;
  for (const { stage, wanted, freed } of schedule(program, names).steps) {
    const { graph, outputs } = stages[stage]!;
    peak = Math.max(peak, live + peakActivations(graph, lengths));
    for (const { index, value } of wanted) {
      const bytes = bytesOf(graph.outputs[outputs[index]!.name]!, lengths);
      sizes.set(value, bytes);
      live += bytes;
    }
    for (const value of freed) live -= sizes.get(value) ?? 0;
  }
  return peak;
}

/** Bytes of the weights that stages are given: each once; those that pass through in the memory of a stage, and of those ahead of it. */
function givenBytes(stages: readonly Stage[], streamed: boolean, isSixteen: boolean): number {
  const passing = streamed ? passingWeights(stages) : new Set<string>();
  const kept = new Map<string, number>();
  const passed = stages.map(({ inputs }) => {
    let sum = 0;
    for (const { source, leaf } of inputs) {
      if (source.kind !== "weight" || (source.part?.rows && "at" in source.part.rows)) continue;
      if (passing.has(source.name)) sum += bytesOf(leaf, {});
      else kept.set(source.name, bytesOf(leaf, {}));
    }
    return sum;
  });
  const atOnce = (STAGES_AHEAD + 1) * Math.max(0, ...passed);
  // The pass that finds outliers streams 16 or 32 bits in place of 8, and widens one matrix after the other.
  const rotated = Math.max(0, ...stages.flatMap(({ inputs }) => inputs.map(rotatedBytes)));
  return (
    [...kept.values()].reduce((sum, one) => sum + one, 0) + (rotated > 0 ? (isSixteen ? 2 : 4) * atOnce + 4 * rotated : atOnce)
  );
}

/** Bytes of a stage's input if it is a weight in 8 bits that outliers are found for. */
const rotatedBytes = ({ source, leaf }: StageInput): number =>
  source.kind === "weight" && source.part?.form === "int8rotated" && leaf.dtype === "int8" ? bytesOf(leaf, {}) : 0;

/** What of it lies in a device's memory: weights, activations, θ and its gradient. */
export const deviceMemory = ({ weights, activations, trained }: MemoryEstimate): number =>
  weights + activations + (2 / THETA_VECTORS) * trained;

/** What θ alone takes: a lower bound of a run's memory. */
export function thetaMemory(trainable: number): MemoryEstimate {
  const trained = 4 * THETA_VECTORS * trainable;
  return { process: 0, weights: 0, trained, activations: 0, total: trained };
}

/**
 * The estimate with what a run has beside its batches: prepared images that are kept, in bytes, and, for samples, a second session
 * that runs `generator` forward with weights of its own.
 */
export function withBeside(memory: MemoryEstimate, imageBytes: number, generator: Graph | null): MemoryEstimate {
  const session = generator ? ENGINE_BYTES + NODE_BYTES * nodesOf(generator).length : 0;
  const process = memory.process + imageBytes + session;
  const weights = memory.weights + (generator ? weightBytes(generator) : 0);
  return { ...memory, process, weights, total: process + weights + memory.trained + memory.activations };
}

export const lengthsOfBatch = ({ rows, width, targets, images = 0, lengths }: BatchSize): SymbolLengths => ({
  batch: rows,
  seq: width,
  targets,
  images,
  ...lengths,
});

/** More tokens than a batch has: among batches with as many images the one with most tokens counts. */
const MORE_THAN_TOKENS = 2 ** 32;

/** The estimate of `program` for the batch of `sizes` that needs most: the one with the most tokens, the longest rows, or the most images. */
export function peakMemory(program: Program, use: ProgramUse, sizes: Iterable<BatchSize>): MemoryEstimate {
  const measures = [
    ({ rows, width }: BatchSize) => rows * width,
    ({ rows, width }: BatchSize) => rows * width ** 2,
    ({ rows, width, images = 0 }: BatchSize) => images * MORE_THAN_TOKENS + rows * width,
  ];
  const largest = measures.map((): BatchSize => ({ rows: 0, width: 0, targets: 0 }));
  for (const size of sizes)
    for (const [i, measure] of measures.entries()) if (measure(size) > measure(largest[i]!)) largest[i] = size;
  return [...new Set(largest)]
    .map((size) => trainingMemory(program, use, lengthsOfBatch(size)))
    .reduce((a, b) => (b.total > a.total ? b : a));
}

/** Bytes a run writes at its fullest: one checkpoint more than are kept (weights, θ and two moments each), and the result. */
export const diskBytes = (trainable: number, resultBytes: number, checkpoints: number): number =>
  (checkpoints + 1) * (resultBytes + 12 * trainable) + resultBytes;

/**
 * Bytes of the weights that a program's session keeps in the cache on disk: those that are slow to convert and, where weights are streamed,
 * all that stream in another form than they are stored in (`dtypeOf`).
 */
export function cacheBytes({ stages }: Program, streamed: boolean, dtypeOf: (name: string) => string | null | undefined): number {
  const passing = streamed ? passingWeights(stages) : new Set<string>();
  let mustBeKept = false;
  const sizes = new Map<string, number>();
  for (const { source, leaf } of stages.flatMap(({ inputs }) => inputs)) {
    if (source.kind !== "weight" || !source.part?.form) continue;
    const { of, form, part, rows } = source.part;
    const isStreamed = passing.has(source.name) && form !== dtypeOf(of);
    if (isQuick(form) && !isStreamed) continue;
    mustBeKept ||= isStreamed;
    const shape = rows ? [rows.total, ...leaf.shape.slice(1)] : leaf.shape;
    sizes.set(`${form} ${part} ${of}`, sizeOf(shape.map(Number)) * bytesPerElement[leaf.dtype]);
  }
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  return total < CACHE_LEAST_BYTES && !mustBeKept ? 0 : total;
}
