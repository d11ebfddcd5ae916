// Where a network is narrow: the values through which all that comes later must pass, such as the residual stream between layers.
import { type Node, topological, type Value } from "./graph.ts";

const leaves = new Set(["input", "weight", "constant", "iota"]);
const products = new Set(["linear", "gemm", "embedding"]);

/** The nodes that depend on a weight or a trained tensor; what depends on a batch alone is the same for every layer. */
export function weighted(nodes: readonly Node[], isTrained: (node: Node) => boolean): Set<Node> {
  const found = new Set<Node>();
  for (const node of nodes) {
    if (node.op === "weight" || isTrained(node) || node.inputs.some((input) => found.has(input.node))) found.add(node);
  }
  return found;
}

/**
 * The borders below `loss` in the order of the forward pass: after each, the rest of the network reads nothing of what came before
 * but the border and what depends on the batch alone. Between two of them lies at least one product with a weight: a decoder's are
 * its embeddings and its residual stream after each attention and each MLP.
 */
export function borders(loss: Value, isTrained: (node: Node) => boolean): Value[] {
  const nodes = topological([loss]);
  const inner = weighted(nodes, isTrained);
  const isLive = ({ node }: Value) => inner.has(node) && !leaves.has(node.op);
  const lastUse = new Map<Value, number>();
  nodes.forEach((node, at) => {
    for (const input of node.inputs) if (isLive(input)) lastUse.set(input, at);
  });
  const found: Value[] = [];
  const live = new Set<Value>();
  let worked = false;
  nodes.forEach((node, at) => {
    for (const output of node.outputs) if (isLive(output) && lastUse.has(output)) live.add(output);
    for (const input of node.inputs) if (lastUse.get(input) === at) live.delete(input);
    if (products.has(node.op) && node.inputs.some((input) => inner.has(input.node) && leaves.has(input.node.op))) worked = true;
    if (live.size !== 1 || !worked) return;
    found.push(...live);
    worked = false;
  });
  return found;
}
