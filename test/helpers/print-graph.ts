// A graph as text, one node a line, in the manner of a typed intermediate language.
import { showShape } from "../../src/graph/dims.ts";
import { type Attribute, type Graph, nodesOf, type Value } from "../../src/graph/graph.ts";

/** Readable listing: `%3: float32[batch*seq, 32] = linear(%1, %2) path=model.layers.0.self_attn.q_proj`. */
export function print(graph: Graph): string {
  const names = new Map<Value, string>();
  const lines = nodesOf(graph).map((node, i) => {
    const leaf = node.op === "input" || node.op === "weight";
    node.outputs.forEach((output, k) => {
      names.set(output, leaf ? String(node.attributes["name"]) : node.outputs.length === 1 ? `%${i}` : `%${i}.${k}`);
    });
    const results = node.outputs.map((value) => `${names.get(value)}: ${value.dtype}${showShape(value.shape)}`).join(", ");
    const operands = node.inputs.map((value) => names.get(value)).join(", ");
    const attributes = Object.entries(node.attributes)
      .filter(([key, value]) => !(leaf || ["dtype", "shape"].includes(key) || (DEFAULTS.has(key) && DEFAULTS.get(key) === value)))
      .map(([key, value]) => ` ${key}=${showAttribute(value)}`)
      .join("");
    return `${results} = ${node.op}(${operands})${attributes}`;
  });
  const outputs = Object.entries(graph.outputs).map(([name, value]) => `return ${name} = ${names.get(value)}`);
  return [...lines, ...outputs, ""].join("\n");
}

/** Attributes that go without saying. */
const DEFAULTS = new Map<string, Attribute>([
  ["transA", false],
  ["transB", false],
  ["alpha", 1],
]);

const MAX_SHOWN = 8;

function showAttribute(value: Attribute): string {
  if (value === null || typeof value !== "object") return String(value);
  return `[${value.slice(0, MAX_SHOWN).join(", ")}${value.length > MAX_SHOWN ? ", …" : ""}]`;
}
