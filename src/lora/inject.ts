// LoRA as a graph pass: any graph whose linears are named can be adapted. Hu et al. 2021, as PEFT computes it.
import { type Graph, rewrite, type Value } from "../graph/graph.ts";
import { add, div, less, sub, where } from "../graph/ops/elementwise.ts";
import { scalar } from "../graph/ops/leaves.ts";
import { gemm, linear } from "../graph/ops/linear.ts";
import { crossEntropy } from "../graph/ops/loss.ts";
import { slice } from "../graph/ops/shape.ts";

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
      const [x, weight, labels] = inputs as [Value, Value, Value];
      const logits = update(path, x, linear(x, weight, path));
      return logits && [crossEntropy(logits, labels), x];
    }
    return null;
  });
}

/** A trained pair beside a frozen layer: loraA [rank, in], loraB [out, rank]. */
export interface LoraFactors {
  loraA: Value;
  loraB: Value;
  scale: number;
}

/** y + scale · B(A dropout(x)), for the paths in `factors`. */
export function loraUpdate(
  factors: ReadonlyMap<string, LoraFactors>,
  dropout: (path: string, x: Value) => Value = (_, x) => x,
): Update {
  return (path, x, y) => {
    const found = factors.get(path);
    if (!found) return null;
    const low = gemm(dropout(path, x), found.loraA, { transB: true }); // [n, rank]
    return add(y, gemm(low, found.loraB, { transB: true, alpha: found.scale })); // [n, out]
  };
}

/** Columns by which the random numbers of two modules are apart; each reads the pool from its own offset. */
const DROPOUT_STRIDE = 8;

/** Width of the pool of random numbers that `pooledDropout` reads: [tokens, width], each uniform in [0, 1). */
export const dropoutPoolWidth = (modules: readonly { inFeatures: number }[]): number =>
  Math.max(0, ...modules.map(({ inFeatures }, i) => i * DROPOUT_STRIDE + inFeatures));

/**
 * Inverted dropout with the module's own columns of `pool`: x · (u ≥ rate) / (1 - rate). `rate` is a scalar of the graph,
 * so that evaluation runs the same graph with rate 0.
 */
export function pooledDropout(modules: readonly { path: string }[], pool: Value, rate: Value): (path: string, x: Value) => Value {
  const offsets = new Map(modules.map(({ path }, i) => [path, i * DROPOUT_STRIDE]));
  return (path, x) => {
    const offset = offsets.get(path)!;
    const u = slice(pool, 1, offset, offset + Number(x.shape[1])); // [tokens, in]
    return where(less(u, rate), scalar(0, x), div(x, sub(scalar(1, x), rate)));
  };
}
