// Graph → Graph: additions that a matrix product can do on the way.
import { sameShape } from "./dims.ts";
import { apply1, type Graph, nodesOf, rewrite, usersOf, type Value } from "./graph.ts";

/**
 * Turns add(product, z) into a gemm that accumulates onto z, where the product has no other reader. Gradients that meet,
 * LoRA's update beside its frozen layer, and the residual stream then cost no pass of their own.
 */
export function fuseAdditions(graph: Graph): Graph {
  const readers = new Map([...usersOf(nodesOf(graph))].map(([value, users]) => [value, users.length]));
  for (const output of Object.values(graph.outputs)) readers.set(output, (readers.get(output) ?? 0) + 1);

  return rewrite(graph, (node, inputs) => {
    // A rebuilt value has the readers of the value it stands for.
    for (const [i, input] of node.inputs.entries()) readers.set(inputs[i]!, readers.get(input)!);
    if (node.op !== "add") return null;
    for (const product of [1, 0]) {
      const [p, z] = [inputs[product]!, inputs[1 - product]!];
      const whole = z.shape.length === 2 && sameShape(z.shape, p.shape);
      if (!whole || readers.get(node.inputs[product]!) !== 1) continue;
      const fused = accumulate(p, z, readers);
      if (fused) return [fused];
    }
    return null;
  });
}

/** `product` + z as one gemm, or null where the product is none or its accumulator is already taken and shared. */
function accumulate({ node }: Value, z: Value, readers: Map<Value, number>): Value | null {
  const [a, b, c] = node.inputs as [Value, Value, Value | undefined];
  const attributes = node.op === "gemm" ? node.attributes : { transA: false, transB: true, alpha: 1 };
  const isProduct = node.op === "gemm" || (node.op === "linear" && !c);
  if (!isProduct) return null;
  const start = !c ? z : readers.get(c) === 1 ? accumulate(c, z, readers) : null;
  return start && apply1("gemm", [a, b, start], attributes);
}
