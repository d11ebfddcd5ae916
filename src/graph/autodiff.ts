// Reverse-mode differentiation, after tinygrad's gradient.py: walk the nodes backwards, one vjp rule at a time.
import { LowrankError } from "../errors.ts";
import { type Node, topological, type Value } from "./graph.ts";
import { add } from "./ops/elementwise.ts";
import { scalar } from "./ops/leaves.ts";
import { table } from "./ops/table.ts";

/**
 * The gradients of the scalar `loss` with respect to each of `wrt`. Only nodes between the two are visited: what lies
 * below every entry of `wrt`, or is frozen beside it, gets no backward node.
 */
export function gradients(loss: Value, wrt: readonly Value[]): Value[] {
  const nodes = topological([loss]);
  const active = dependents(nodes, new Set(wrt));
  if (!active.has(loss.node)) throw unreached("the loss depends on none of the trained tensors", wrt[0]);
  const arrived = new Map<Value, Value>([[loss, scalar(1, loss)]]);

  for (const node of nodes.reverse()) {
    const incoming = node.outputs.map((output) => arrived.get(output));
    if (!active.has(node) || incoming.every((gradient) => gradient === undefined)) continue;
    const useful = node.inputs.some((input) => active.has(input.node) && isFloat(input));
    if (!useful) continue;
    const { vjp } = table()[node.op];
    if (!vjp) throw unreached(`the op ${node.op} is declared not differentiable`, node.outputs[0]);
    vjp(node, incoming).forEach((gradient, i) => {
      const input = node.inputs[i]!;
      if (!active.has(input.node) || !isFloat(input)) return;
      if (gradient === null)
        throw unreached(`${node.op} passes no gradient to its input ${i}, which depends on a trained tensor`, input);
      const before = arrived.get(input);
      arrived.set(input, before ? add(before, gradient) : gradient);
    });
  }
  return wrt.map((value) => {
    const gradient = arrived.get(value);
    if (!gradient) throw unreached("no gradient reaches it", value);
    return gradient;
  });
}

/** Integers and booleans, as indices and choices are, stay as they are where their sources move a little: no gradient passes. */
const isFloat = ({ dtype }: Value): boolean => dtype.startsWith("float");

/** The nodes whose outputs depend on one of `sources`, the sources' own nodes included. */
export function dependents(nodes: readonly Node[], sources: ReadonlySet<Value>): Set<Node> {
  const active = new Set<Node>();
  for (const node of nodes) {
    const isSource = node.outputs.some((output) => sources.has(output));
    if (isSource || node.inputs.some((input) => active.has(input.node) && isFloat(input))) active.add(node);
  }
  return active;
}

function unreached(message: string, value: Value | undefined): LowrankError {
  const { op, attributes } = value?.node ?? { op: "nothing", attributes: {} as Record<string, unknown> };
  return new LowrankError("graph/gradient", message, { subject: `${op} ${attributes["name"] ?? ""}`.trim(), exitCode: 1 });
}
