// Adapters as a graph pass: any graph whose linear and embedding layers are named can be adapted. Hu et al. 2021, as PEFT computes it.
import { type Dim, elements, type Shape, sameShape } from "../graph/dims.ts";
import { apply1, type Graph, nodesOf, rewrite, type Value } from "../graph/graph.ts";
import { div, less, neg, sub, where } from "../graph/ops/elementwise.ts";
import { embedding } from "../graph/ops/indexing.ts";
import { input, scalar } from "../graph/ops/leaves.ts";
import { gemm, linear } from "../graph/ops/linear.ts";
import { crossEntropies } from "../graph/ops/loss.ts";
import { capLogits } from "../graph/ops/output-layer.ts";
import { concat, reshape, slice, transpose, window } from "../graph/ops/shape.ts";
import type { Layer, Method, ModuleTensors } from "./method.ts";

/** What takes the place of the output `y` of the linear or embedding layer called `path` with input `x`; null leaves it alone. */
type Update = (path: string, x: Value, y: Value) => Value | null;

/**
 * Rewrites every named layer for which `update` has an answer. An output layer fused with the loss is split
 * first, since its fusion holds for frozen weights only.
 */
function inject(graph: Graph, update: Update): Graph {
  return rewrite(graph, (node, inputs) => {
    const path = String(node.attributes["path"]);
    if (node.op === "linear" || node.op === "embedding") {
      const updated = update(path, inputs[0]!, apply1(node.op, inputs, node.attributes));
      return updated && [updated];
    }
    if (node.op === "linearCrossEntropy") {
      const [x, weight, labels, further] = inputs as [Value, Value, Value, Value?];
      const softcap = node.attributes["softcap"] as number | undefined;
      const updated = update(path, x, linear(x, weight, path));
      if (!updated) return null;
      const logits = softcap ? capLogits(updated, softcap) : updated;
      return [crossEntropies(further ? concat([logits, further], 1) : logits, labels), x, ...(further ? [further] : [])];
    }
    return null;
  });
}

/** An output layer fused with the loss is split if its weight is an input. */
export const splitTrained = (graph: Graph): Graph =>
  inject(graph, (_path, _x, y) => (y.node.inputs[1]!.node.op === "input" ? y : null));

/** What is beside a frozen layer: the tensors that the method trains, or without `derived` those that its `update` reads. */
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
  const low = lowProducts(graph, beside, dropout);
  return inject(graph, (path, x, y) => {
    const own = beside.get(path);
    if (!own) return null;
    const { scale, mix = (low: Value) => low } = own;
    const { initialA } = own.tensors;
    const tensors = withoutFirst(own.tensors);
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
    // What is taken off the base reads all of its input.
    const apart = dropout && initialA && (() => concat([low(path, dropped, own.tensors.loraA), low(path, x, initialA)], 1));
    return update({
      y,
      weight,
      ...(bias && { bias }),
      hasDropout: dropout !== undefined,
      product: () => (bias || dropout ? linear(dropped, weight, path) : y),
      low: (loraA) => mix(apart ? apart() : low(path, dropped, loraA)),
      scale,
    });
  });
}

/** B·A − B₀·A₀ as one product, where first factors are taken off the base: [A; A₀] and [B, −B₀]. */
function withoutFirst({ initialA, initialB, ...own }: ModuleTensors<Value>): ModuleTensors<Value> {
  if (!initialA || !initialB) return own as ModuleTensors<Value>;
  return { ...own, loraA: concat([own.loraA, initialA], 0), loraB: concat([own.loraB, neg(initialB)], 1) };
}

const shaped = (x: Value, shape: Shape): Value => (sameShape(x.shape, shape) ? x : reshape(x, shape));

/** input · loraAᵀ of a layer, [n, rank]; of layers that read the same input a slice of one product. */
function lowProducts(graph: Graph, beside: ReadonlyMap<string, LayerTensors>, dropout: unknown) {
  const factorOf = (path: string): Value => withoutFirst(beside.get(path)!.tensors).loraA;
  const siblings = dropout ? new Map<string, string[]>() : readersOfSameInput(graph, beside);
  const products = new Map<Value, Value>(); // input x [n, in] → x · [A₁; A₂; …]ᵀ [n, ranks]
  return (path: string, x: Value, loraA: Value): Value => {
    const group = siblings.get(path) ?? [path];
    if (group.length === 1) return gemm(x, loraA, { transB: true }); // [n, rank]
    const product = products.get(x) ?? gemm(x, concat(group.map(factorOf), 0), { transB: true });
    products.set(x, product);
    const ranks = group.map((name) => Number(factorOf(name).shape[0]));
    const at = group.indexOf(path);
    const start = ranks.slice(0, at).reduce((sum, rank) => sum + rank, 0);
    return slice(product, 1, start, start + ranks[at]!); // [n, rank]
  };
}

/** For each path in `beside`, the paths whose layers read the same input. Factors of symbolic rank stay alone. */
function readersOfSameInput(graph: Graph, beside: ReadonlyMap<string, LayerTensors>): Map<string, string[]> {
  const groups = new Map<Value, string[]>();
  for (const { op, inputs, attributes } of nodesOf(graph)) {
    const found = op === "linear" ? beside.get(String(attributes["path"])) : undefined;
    if (typeof found?.tensors.loraA.shape[0] !== "number") continue;
    groups.set(inputs[0]!, [...(groups.get(inputs[0]!) ?? []), String(attributes["path"])]);
  }
  return new Map([...groups.values()].flatMap((group) => group.map((path): [string, string[]] => [path, group])));
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
