// LoRA as a graph pass: any graph whose linears are named can be adapted. Hu et al. 2021, as PEFT computes it.
import type { Dim } from "../graph/dims.ts";
import { type Graph, nodesOf, rewrite, type Value } from "../graph/graph.ts";
import { add, div, less, sub, where } from "../graph/ops/elementwise.ts";
import { scalar } from "../graph/ops/leaves.ts";
import { gemm, linear } from "../graph/ops/linear.ts";
import { capLogits, crossEntropy } from "../graph/ops/loss.ts";
import { concat, slice } from "../graph/ops/shape.ts";

/** What takes the place of the output `y` of the linear layer called `path` with input `x`; null leaves the layer alone. */
export type Update = (path: string, x: Value, y: Value) => Value | null;

/**
 * Rewrites every named linear layer for which `update` has an answer. An output layer fused with the loss is taken apart
 * first, since its fusion holds for frozen weights only.
 */
export function inject(graph: Graph, update: Update): Graph {
  return rewrite(graph, (node, inputs) => {
    const path = String(node.attributes["path"]);
    if (node.op === "linear") {
      const y = linear(inputs[0]!, inputs[1]!, path, inputs[2]);
      const updated = update(path, inputs[0]!, y);
      return updated && [updated];
    }
    if (node.op === "linearCrossEntropy") {
      const [x, weight, labels, further] = inputs as [Value, Value, Value, Value?];
      const softcap = node.attributes["softcap"] as number | undefined;
      const logits = update(path, x, linear(x, weight, path));
      if (!logits) return null;
      if (further) return [crossEntropy(concat([logits, further], 1), labels), x, further];
      return [crossEntropy(softcap ? capLogits(logits, softcap) : logits, labels), x];
    }
    return null;
  });
}

/** The graph with inputs in the place of some weights, by name. An output layer fused with the loss is taken apart if it is one of them. */
export function withInputs(graph: Graph, inputs: ReadonlyMap<string, Value>): Graph {
  const replaced = rewrite(graph, (node) => {
    const own = node.op === "weight" ? inputs.get(String(node.attributes["name"])) : undefined;
    return own ? [own] : null;
  });
  return inject(replaced, (_path, _x, y) => (y.node.inputs[1]!.node.op === "input" ? y : null));
}

/** A trained pair beside a frozen layer: loraA [rank, in], loraB [out, rank]. */
export interface LoraFactors {
  loraA: Value;
  loraB: Value;
  scale: number;
}

/**
 * y + scale · B(A dropout(x)), for the paths in `factors`. Layers of `graph` that read the same input, such as q, k and v,
 * share one product with their A factors above each other, forward and backward; with dropout each has an input of its own.
 */
export function loraUpdate(
  graph: Graph,
  factors: ReadonlyMap<string, LoraFactors>,
  dropout?: (path: string, x: Value) => Value,
): Update {
  const siblings = dropout ? new Map<string, string[]>() : readersOfSameInput(graph, factors);
  const products = new Map<Value, Value>(); // input x [n, in] → x · [A₁; A₂; …]ᵀ [n, ranks]
  const low = (path: string, x: Value, own: LoraFactors): Value => {
    const group = siblings.get(path) ?? [path];
    if (group.length === 1) return gemm(dropout ? dropout(path, x) : x, own.loraA, { transB: true }); // [n, rank]
    const ranks = group.map((name) => Number(factors.get(name)!.loraA.shape[0]));
    let product = products.get(x);
    if (!product) {
      product = gemm(
        x,
        concat(
          group.map((name) => factors.get(name)!.loraA),
          0,
        ),
        { transB: true },
      );
      products.set(x, product);
    }
    const at = group.indexOf(path);
    const start = ranks.slice(0, at).reduce((sum, rank) => sum + rank, 0);
    return slice(product, 1, start, start + ranks[at]!); // [n, rank]
  };
  return (path, x, y) => {
    const own = factors.get(path);
    return own ? add(y, gemm(low(path, x, own), own.loraB, { transB: true, alpha: own.scale })) : null; // [n, out]
  };
}

/** For each path in `factors`, the paths whose layers read the same input. Factors of symbolic rank stay alone. */
function readersOfSameInput(graph: Graph, factors: ReadonlyMap<string, LoraFactors>): Map<string, string[]> {
  const groups = new Map<Value, string[]>();
  for (const { op, inputs, attributes } of nodesOf(graph)) {
    const found = op === "linear" ? factors.get(String(attributes["path"])) : undefined;
    if (typeof found?.loraA.shape[0] !== "number") continue;
    groups.set(inputs[0]!, [...(groups.get(inputs[0]!) ?? []), String(attributes["path"])]);
  }
  return new Map([...groups.values()].flatMap((group) => group.map((path): [string, string[]] => [path, group])));
}

/** Columns by which the random numbers of two modules are apart; each reads the pool from its own offset. */
const DROPOUT_STRIDE = 8;

/** Width of the pools of random numbers that `pooledDropout` reads: [rows, width], each uniform in [0, 1). */
export const dropoutPoolWidth = (modules: readonly { inFeatures: number }[]): number =>
  Math.max(0, ...modules.map(({ inFeatures }, i) => i * DROPOUT_STRIDE + inFeatures));

/**
 * Inverted dropout with the module's own columns of a pool: x · (u ≥ rate) / (1 - rate). `poolOf` gives the pool for inputs
 * of so many rows: those of tokens, or of patches. `rate` is a scalar of the graph, so that evaluation runs the same graph
 * with rate 0.
 */
export function pooledDropout(
  modules: readonly { path: string }[],
  poolOf: (rows: Dim) => Value,
  rate: Value,
): (path: string, x: Value) => Value {
  const offsets = new Map(modules.map(({ path }, i) => [path, i * DROPOUT_STRIDE]));
  return (path, x) => {
    const offset = offsets.get(path)!;
    const u = slice(poolOf(x.shape[0]!), 1, offset, offset + Number(x.shape[1])); // [rows, in]
    return where(less(u, rate), scalar(0, x), div(x, sub(scalar(1, x), rate)));
  };
}
