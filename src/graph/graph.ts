// The tensor graph: immutable nodes over typed values with symbolic shapes. A pass is a function Graph → Graph.
import { LowrankError } from "../errors.ts";
import { type Shape, sameShape, showShape } from "./dims.ts";
import type { OpName } from "./ops/names.ts";
import { table } from "./ops/table.ts";

/** What is computed with, and what weights are stored in besides. */
export type ElementType = "float32" | "float64" | "int32" | "int64" | "bool" | "bfloat16" | "float16" | "int8" | "uint8";

export interface Type {
  readonly dtype: ElementType;
  readonly shape: Shape;
}

export type Attribute = number | string | boolean | null | readonly number[] | Shape;
export type Attributes = Readonly<Record<string, Attribute>>;

/** One output of a node. */
export interface Value extends Type {
  readonly node: Node;
  readonly index: number;
}

export interface Node {
  readonly op: OpName;
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
  readonly outputs: readonly Value[];
}

/** What is computed: the named outputs. Everything else is what they reach. */
export interface Graph {
  readonly outputs: Readonly<Record<string, Value>>;
}

/** A node whose outputs are what its rule infers. */
class VerifiedNode implements Node {
  constructor(
    readonly op: OpName,
    readonly inputs: readonly Value[],
    readonly attributes: Attributes,
    readonly outputs: readonly Value[],
  ) {}
}

/** Makes a node of `op`; its rule in the table checks the inputs and infers the outputs. */
export function apply(op: OpName, inputs: readonly Value[], attributes: Attributes = {}): readonly Value[] {
  const types = inferTypes(op, inputs, attributes);
  const outputs: Value[] = [];
  const node = new VerifiedNode(op, inputs, attributes, outputs);
  outputs.push(...types.map((type, index) => ({ ...type, node, index })));
  return outputs;
}

/** `apply` for the ops with one output. */
export const apply1 = (op: OpName, inputs: readonly Value[], attributes?: Attributes): Value => apply(op, inputs, attributes)[0]!;

function inferTypes(op: OpName, inputs: readonly Type[], attributes: Attributes): readonly Type[] {
  try {
    return table()[op].infer(inputs, attributes);
  } catch (error) {
    if (!(error instanceof TypeProblem)) throw error;
    throw new LowrankError("graph/type", `${error.message}`, {
      subject: `op ${op}`,
      got: inputs.map(({ dtype, shape }) => dtype + showShape(shape)).join(", "),
      next: "This is a bug in a model file or in a graph pass, not in your data; please report it.",
      exitCode: 1,
    });
  }
}

/** Thrown by a rule's `infer`; `apply` turns it into an error that names the op and its inputs. */
export class TypeProblem extends Error {}

export function expect(condition: boolean, message: string): asserts condition {
  if (!condition) throw new TypeProblem(message);
}

const none: ReadonlySet<Node> = new Set();

/** Every node that the values reach, inputs before users, in a fixed order; not what is in `before`, nor what lies below that alone. */
export function topological(values: Iterable<Value>, before: { has(node: Node): boolean } = none): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  for (const root of values) {
    if (seen.has(root.node) || before.has(root.node)) continue;
    const stack = [{ node: root.node, next: 0 }];
    seen.add(root.node);
    while (stack.length) {
      const top = stack[stack.length - 1]!;
      const input = top.node.inputs[top.next++];
      if (input === undefined) {
        order.push(top.node);
        stack.pop();
      } else if (!seen.has(input.node) && !before.has(input.node)) {
        seen.add(input.node);
        stack.push({ node: input.node, next: 0 });
      }
    }
  }
  return order;
}

const orders = new WeakMap<Graph, readonly Node[]>();

/** Every node of the graph, inputs before users: one list a graph, since passes ask for it again and again. */
export function nodesOf(graph: Graph): readonly Node[] {
  const known = orders.get(graph);
  if (known) return known;
  const order = topological(Object.values(graph.outputs));
  orders.set(graph, order);
  return order;
}

/** For each value, the nodes that read it (once per reading input). */
export function usersOf(nodes: readonly Node[]): Map<Value, Node[]> {
  const users = new Map<Value, Node[]>();
  for (const node of nodes) {
    for (const input of node.inputs)
      users
        .set(input, users.get(input) ?? [])
        .get(input)!
        .push(node);
  }
  return users;
}

/**
 * Rebuilds the graph from the leaves up. For each node `replace` sees the already rebuilt inputs and returns the values
 * to stand for its outputs, or null to keep the node as it is, over those inputs: `rebuilt` makes that. The result is checked.
 */
export function rewrite(
  graph: Graph,
  replace: (node: Node, inputs: readonly Value[], rebuilt: () => readonly Value[]) => readonly Value[] | null,
): Graph {
  const values = new Map<Value, Value>();
  for (const node of nodesOf(graph)) {
    const inputs = node.inputs.map((input) => values.get(input)!);
    const unchanged = inputs.every((input, i) => input === node.inputs[i]);
    const rebuilt = () => (unchanged ? node.outputs : apply(node.op, inputs, node.attributes));
    const outputs = replace(node, inputs, rebuilt) ?? rebuilt();
    for (const [i, output] of node.outputs.entries()) values.set(output, outputs[i]!);
  }
  const outputs = Object.fromEntries(Object.entries(graph.outputs).map(([name, value]) => [name, values.get(value)!]));
  return check({ outputs });
}

/** Verifies every node against its rule, and that leaf names are unique. Returns the graph. */
export function check(graph: Graph): Graph {
  const leaves = new Map<string, Node>();
  for (const node of nodesOf(graph)) {
    verify(node);
    if (node.op !== "input" && node.op !== "weight") continue;
    const name = `${node.op} ${node.attributes["name"]}`;
    if ((leaves.get(name) ?? node) !== node) {
      throw new LowrankError("graph/check", `two different leaves are called ${name}`, { exitCode: 1 });
    }
    leaves.set(name, node);
  }
  return graph;
}

function verify(node: Node): void {
  if (node instanceof VerifiedNode) return;
  const types = inferTypes(node.op, node.inputs, node.attributes);
  const agrees = (type: Type, i: number) => type.dtype === node.outputs[i]?.dtype && sameShape(type.shape, node.outputs[i].shape);
  if (types.length !== node.outputs.length || !types.every(agrees)) {
    throw new LowrankError("graph/check", `the outputs of ${node.op} are not what its rule infers`, { exitCode: 1 });
  }
}
