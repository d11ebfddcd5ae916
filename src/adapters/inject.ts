// Adapters as a graph pass: any graph whose linear and embedding layers are named can be adapted. Hu et al. 2021, as PEFT computes it.
import { LowrankError } from "../errors.ts";
import { type Dim, elements, type Shape, sameShape } from "../graph/dims.ts";
import { apply1, type Graph, type Node, nodesOf, rewrite, type Value } from "../graph/graph.ts";
import { div, less, mul, neg, sub, where } from "../graph/ops/elementwise.ts";
import { embedding } from "../graph/ops/indexing.ts";
import { input, scalar } from "../graph/ops/leaves.ts";
import { gemm, type LayerPlace, linear } from "../graph/ops/linear.ts";
import { crossEntropies } from "../graph/ops/loss.ts";
import { capLogits } from "../graph/ops/output-layer.ts";
import { concat, reshape, slice, transpose, window } from "../graph/ops/shape.ts";
import { float32, type Tensor } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import type { Layer, Method, ModuleTensors } from "./method.ts";
import { methodOf } from "./method-table.ts";
import { layerTensors } from "./places.ts";

/** What takes the place of the output `y` of the linear or embedding layer of `node` with input `x`; null leaves it alone. */
type Update = (node: Node, x: Value, y: Value) => Value | null;

/** What a layer is known by: the path of its module, and which part of that it is. */
const layerName = ({ attributes: { path, expert, half } }: Node): string =>
  expert === undefined ? String(path) : `${path} ${expert} ${half}`;

/**
 * Rewrites every named layer for which `update` has an answer. An output layer fused with the loss is split
 * first, since its fusion holds for frozen weights only.
 */
function inject(graph: Graph, update: Update): Graph {
  return rewrite(graph, (node, inputs) => {
    if (node.op === "linear" || node.op === "embedding") {
      const updated = update(node, inputs[0]!, apply1(node.op, inputs, node.attributes));
      return updated && [updated];
    }
    if (node.op === "linearCrossEntropy") {
      const [x, weight, labels, further] = inputs as [Value, Value, Value, Value?];
      const softcap = node.attributes["softcap"] as number | undefined;
      const updated = update(node, x, linear(x, weight, String(node.attributes["path"])));
      if (!updated) return null;
      const logits = softcap ? capLogits(updated, softcap) : updated;
      return [crossEntropies(further ? concat([logits, further], 1) : logits, labels), x, ...(further ? [further] : [])];
    }
    return null;
  });
}

/** An output layer fused with the loss is split if its weight is an input. */
export const splitTrained = (graph: Graph): Graph =>
  inject(graph, (_node, _x, y) => (y.node.inputs[1]!.node.op === "input" ? y : null));

/** What is beside a frozen layer: the tensors that the method trains, as they are stored, or without `derived` those that its `update` reads. */
export interface LayerTensors {
  tensors: ModuleTensors<Value>;
  scale: number;
  /** What A·x, [n, rank], is turned into first. */
  mix?: (low: Value) => Value;
}

/**
 * The graph with the layers in `beside` adapted by `method`. Linear layers of `graph` that read the same input, such as q, k and v,
 * share one product with their A factors above each other, forward and backward; with dropout each has an input of its own.
 */
export function adapt(
  graph: Graph,
  method: Method,
  beside: ReadonlyMap<string, LayerTensors>,
  dropout?: (path: string, x: Value) => Value,
): Graph {
  const tensorsOf = layerTensors();
  const layers = new Map<string, LayerTensors & { apart?: readonly [trained: Value, first: Value] }>();
  for (const node of nodesOf(graph)) {
    const own = isLayer(node) ? beside.get(String(node.attributes["path"])) : undefined;
    if (!own) continue;
    const tensors = tensorsOf(own.tensors, node.attributes as LayerPlace);
    const { loraA, initialA } = tensors;
    layers.set(layerName(node), { ...own, tensors: withoutFirst(tensors), ...(initialA && { apart: [loraA, initialA] }) });
  }
  const low = lowProducts(graph, layers, dropout);
  const gated = method.gate ? gates(method) : (low: Value) => low;
  return inject(graph, (node, x, y) => {
    const path = String(node.attributes["path"]);
    const own = layers.get(layerName(node));
    if (!own) return null;
    const { scale, tensors, mix = (low: Value) => low } = own;
    const update = (layer: Layer) => method.update(layer, { ...tensors, ...method.derived?.compute(layer, tensors) });
    const [, weight, bias] = y.node.inputs as [Value, Value, Value?];
    if (y.node.op === "embedding") {
      const n = elements(x.shape);
      const flat = shaped(y, [n, y.shape.at(-1)!]);
      const padding = (y.node.attributes["padding"] ?? null) as number | null;
      const layer: Layer = {
        y: flat,
        weight: transpose(weight, [1, 0]),
        hasDropout: false,
        product: () => flat,
        low: (loraA) => mix(embedding(shaped(x, [n]), transpose(loraA, [1, 0]), `${path}.lora_embedding_A`, padding)),
        scale,
      };
      return shaped(update(layer), y.shape);
    }
    const dropped = dropout ? dropout(path, x) : x;
    // What is subtracted from the base reads all of its input.
    const [trained, first] = (dropout && own.apart) || [];
    const lowOf = (loraA: Value): Value => {
      const name = layerName(node);
      return first ? concat([low(name, dropped, trained!), low(name, x, first)], 1) : low(name, dropped, loraA);
    };
    return update({
      y,
      weight,
      ...(bias && { bias }),
      hasDropout: dropout !== undefined,
      product: () => (bias || dropout ? linear(dropped, weight, path) : y),
      low: (loraA) => mix(gated(lowOf(loraA))),
      scale,
    });
  });
}

/** B·A − B₀·A₀ as one product, where first factors are subtracted from the base: [A; A₀] and [B, −B₀]. */
function withoutFirst({ initialA, initialB, ...own }: ModuleTensors<Value>): ModuleTensors<Value> {
  if (!initialA || !initialB) return own as ModuleTensors<Value>;
  return { ...own, loraA: concat([own.loraA, initialA], 0), loraB: concat([own.loraB, neg(initialB)], 1) };
}

/** Rows of what a layer reads that a gate has values for. */
const TOKENS = "batch*seq";
const GATE = "adapterGate";

/** What multiplies A·x, [tokens, rank], by the method's gate, an input. */
function gates({ title }: Method): (low: Value) => Value {
  const gate = input(GATE, "float32", [TOKENS, 1]);
  return (low) => {
    if (low.shape[0] === TOKENS) return mul(low, gate);
    throw new LowrankError("lora/unsupported", `${title} can't adapt a layer that does not compute each token by itself.`, {
      subject: "targetModules",
      expected: "layers of a text's tokens: not an output layer, experts, or layers of images",
      got: `a layer of ${low.shape[0]} rows`,
      next: "Leave such layers out of the targets.",
    });
  };
}

/** The layers of a graph that an adapter with a gate can be beside. */
export const gatedLayers = (graph: Graph): Set<string> =>
  new Set(
    nodesOf(graph).flatMap(({ op, inputs, attributes }) =>
      op === "linear" && inputs[0]!.shape[0] === TOKENS ? [String(attributes["path"])] : [],
    ),
  );

/** What the input of a gate is fed: its values for each token. */
export const gateFeed = (values: Int32Array): Record<string, Tensor> => ({
  [GATE]: float32([values.length, 1], Float32Array.from(values)),
});

/** What an adapter's graph is fed beside a batch. */
export function gateFeeds(config: LoraConfig, batch: Record<string, Tensor>): Record<string, Tensor> {
  const { gate } = methodOf(config);
  return gate ? gateFeed(gate(config, batch)) : {};
}

const isLayer = ({ op }: Node): boolean => op === "linear" || op === "embedding" || op === "linearCrossEntropy";

const shaped = (x: Value, shape: Shape): Value => (sameShape(x.shape, shape) ? x : reshape(x, shape));

/** input · loraAᵀ of a layer, [n, rank]; of layers that read the same input a slice of one product. */
function lowProducts(graph: Graph, layers: ReadonlyMap<string, LayerTensors>, dropout: unknown) {
  const siblings = dropout ? new Map<string, Value[]>() : factorsOfSameInput(graph, layers);
  const products = new Map<Value, Value>(); // input x [n, in] → x · [A₁; A₂; …]ᵀ [n, ranks]
  return (layer: string, x: Value, loraA: Value): Value => {
    const group = siblings.get(layer) ?? [loraA];
    const isAlone = group.length === 1;
    const product = (isAlone ? undefined : products.get(x)) ?? gemm(x, concat(group, 0), { transB: true });
    if (isAlone) return product; // [n, rank]
    products.set(x, product);
    const ranks = group.map(({ shape }) => Number(shape[0]));
    const at = group.indexOf(loraA);
    const start = ranks.slice(0, at).reduce((sum, rank) => sum + rank, 0);
    return slice(product, 1, start, start + ranks[at]!); // [n, rank]
  };
}

/** For each of `layers`, the As of those that read the same input, each once. Factors of symbolic rank stay alone. */
function factorsOfSameInput(graph: Graph, layers: ReadonlyMap<string, LayerTensors>): Map<string, Value[]> {
  const groups = new Map<Value, Value[]>();
  const siblings = new Map<string, Value[]>();
  for (const node of nodesOf(graph)) {
    const loraA = node.op === "linear" ? layers.get(layerName(node))?.tensors.loraA : undefined;
    if (typeof loraA?.shape[0] !== "number") continue;
    const group = groups.get(node.inputs[0]!) ?? [];
    if (!group.includes(loraA)) group.push(loraA);
    groups.set(node.inputs[0]!, group);
    siblings.set(layerName(node), group);
  }
  return siblings;
}

/** Columns by which the random numbers of two modules are apart; each reads the pool from its own offset. */
const DROPOUT_STRIDE = 8;

/** Width of the pools of random numbers that `pooledDropout` reads: [rows, width], each uniform in [0, 1). */
export const dropoutPoolWidth = (modules: readonly { inFeatures: number }[]): number =>
  Math.max(0, ...modules.map(({ inFeatures }, i) => i * DROPOUT_STRIDE + inFeatures));

const START = "dropoutStart";

/** The column of the pools that an input of a graph is fed, which its name says; undefined for other inputs. */
export const dropoutStart = (name: string): number | undefined =>
  name.startsWith(`${START} `) ? Number(name.slice(START.length)) : undefined;

/**
 * Inverted dropout with the module's own columns of a pool: x · (u ≥ rate) / (1 - rate). `poolOf` gives the pool for inputs
 * of so many rows: those of tokens, or of patches. `rate` is a scalar of the graph, so that evaluation runs the same graph
 * with rate 0. Where the columns begin is an input too (`dropoutStart`), so that equal layers stay equal.
 */
export function pooledDropout(
  modules: readonly { path: string }[],
  poolOf: (rows: Dim) => Value,
  rate: Value,
): (path: string, x: Value) => Value {
  const starts = new Map(modules.map(({ path }, i) => [path, input(`${START} ${i * DROPOUT_STRIDE}`, "int32", [1])]));
  return (path, x) => {
    const u = window(poolOf(x.shape[0]!), starts.get(path)!, Number(x.shape[1])); // [rows, in]
    return where(less(u, rate), scalar(0, x), div(x, sub(scalar(1, x), rate)));
  };
}
