// Graph → Graph: additions that a matrix product can do on the way.
import { apply, type Graph, nodesOf, rewrite, usersOf, type Value } from "./graph.ts";

/**
 * Turns add(product, z) into a gemm that accumulates onto z, where the product has no other reader. Gradients that meet,
 * and LoRA's update beside its frozen layer, then cost no pass of their own.
 */
export function fuseAdditions(graph: Graph): Graph {
  const users = usersOf(nodesOf(graph));
  const outputs = new Set(Object.values(graph.outputs));
  const fusable = (value: Value) => !outputs.has(value) && users.get(value)?.length === 1 && asGemm(value) !== null;
  return rewrite(graph, (node, inputs) => {
    if (node.op !== "add") return null;
    for (const [product, other] of [
      [1, 0],
      [0, 1],
    ] as const) {
      const [p, z] = [inputs[product]!, inputs[other]!];
      // The old product tells how many readers it had; the rebuilt one may already have become an accumulator.
      const gemm = fusable(node.inputs[product]!) ? asGemm(p) : null;
      if (gemm && z.shape.length === 2 && z.shape.every((dim, i) => dim === p.shape[i])) {
        return apply("gemm", [...gemm.inputs, z], gemm.attributes);
      }
    }
    return null;
  });
}

/** A value as a gemm that has no accumulator yet, or null. */
function asGemm({ node }: Value): Pick<typeof node, "inputs" | "attributes"> | null {
  if (node.inputs.length !== 2) return null;
  if (node.op === "gemm") return node;
  if (node.op === "linear") return { inputs: node.inputs, attributes: { transA: false, transB: true, alpha: 1 } };
  return null;
}
