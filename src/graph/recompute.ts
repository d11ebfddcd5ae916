// Graph → Graph: what the backward pass reads of the forward pass is computed again from the last border before it (Chen et al. 2016).
import { apply, check, type Graph, type Node, nodesOf, topological, type Value } from "./graph.ts";

/** How a value of the forward pass reaches the backward pass: it is kept, or computed again from values that are. */
type Keep = (value: Value) => boolean;

/**
 * The graph, in which nodes that are not below `forward` read copies of what `keep` refuses. Copies begin at what is kept: a caller
 * that keeps the borders between layers has each layer computed again by itself.
 */
export function recompute(graph: Graph, forward: readonly Value[], keep: Keep): Graph {
  const below = new Set<Node>(topological(forward));
  const copies = new Map<Node, readonly Value[]>();
  const again = (value: Value): Value => {
    const { node } = value;
    if (node.inputs.length === 0 || keep(value)) return value;
    let outputs = copies.get(node);
    if (!outputs) {
      outputs = apply(node.op, node.inputs.map(again), node.attributes);
      copies.set(node, outputs);
    }
    return outputs[value.index]!;
  };
  const rebuilt = new Map<Value, Value>();
  const read = (value: Value) => (below.has(value.node) ? again(value) : rebuilt.get(value)!);
  for (const node of nodesOf(graph)) {
    if (below.has(node)) continue;
    const outputs = apply(node.op, node.inputs.map(read), node.attributes);
    for (const [i, output] of node.outputs.entries()) rebuilt.set(output, outputs[i]!);
  }
  const outputs = Object.entries(graph.outputs).map(([name, value]) => [name, rebuilt.get(value) ?? value]);
  return check({ outputs: Object.fromEntries(outputs) });
}
