// Graph → Graph: what is computed twice is computed once (common subexpressions, by hash-consing).
import { type Graph, type Node, rewrite, type Value } from "./graph.ts";

/** Nodes of the same op, attributes and inputs become one. */
export function unique(graph: Graph): Graph {
  const known = new Map<string, readonly Value[]>();
  const numbers = new Map<Node, number>();
  const numberOf = (node: Node): number => {
    const number = numbers.get(node) ?? numbers.size;
    numbers.set(node, number);
    return number;
  };
  return rewrite(graph, ({ op, attributes }, inputs, rebuilt) => {
    const key = `${op} ${JSON.stringify(attributes)} ${inputs.map(({ node, index }) => `${numberOf(node)}.${index}`)}`;
    const outputs = known.get(key) ?? rebuilt();
    known.set(key, outputs);
    return outputs;
  });
}
