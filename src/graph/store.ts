// Graph → Graph: frozen weights in another form than float32, widened where they are read, or multiplied with as they are.
import { elements, type Shape } from "./dims.ts";
import { apply, apply1, type Graph, type Node, nodesOf, rewrite, usersOf, type Value } from "./graph.ts";
import { add, mul } from "./ops/elementwise.ts";
import { gemm } from "./ops/linear.ts";
import { withParts } from "./ops/output-layer.ts";
import { integerProduct, type Outliers, pickedRows, quantiseRows, ROTATED, rotate, splitOutliers } from "./ops/rotated.ts";
import { reshape } from "./ops/shape.ts";
import { type FormName, forms, widened } from "./ops/stored.ts";

/** A matrix that is not trained. */
export interface Frozen {
  name: string;
  shape: readonly [number, number];
  /** Whether it is a linear layer's between embeddings and output, an output layer's that the loss reads by chunks, or another's. */
  role: "inner" | "output" | "other";
}

/** Matrices of fewer elements stay in float32. */
export const SMALL = 2 ** 14;

/** A weight's form; null for float32. */
export type ChooseForm = (weight: Frozen) => FormName | null;

/** The name of a weight's part, which `WeightSource` knows by the leaf's other attributes. */
export const partName = (name: string, form: FormName, part: number): string => `${name} ${form}.${part}`;

/**
 * The graph with the weights that `choose` has a form for as parts in that form. Of a table of embeddings only the rows that are
 * looked up are widened, and of an output layer a chunk at a time. Products with rotated weights become products of integers.
 */
export function storeWeights(graph: Graph, choose: ChooseForm): Graph {
  const inner = innerWeights(graph);
  const outputs = outputWeights(graph);
  const readers = usersOf(nodesOf(graph));
  const products = integerProducts();
  return rewrite(graph, (node, inputs) => {
    const { op, attributes } = node;
    if (op === "weight") {
      const name = String(attributes["name"]);
      const shape = attributes["shape"] as [number, number];
      const form =
        shape.length === 2
          ? choose({ name, shape, role: inner.has(node) ? "inner" : outputs.has(name) ? "output" : "other" })
          : null;
      if (form === null) return null;
      const parts = forms[form].parts(...shape).map(({ dtype, shape }, part) => {
        return apply1("weight", [], { name: partName(name, form, part), dtype, shape, of: name, form, part });
      });
      return [widened(parts, form)];
    }
    const fused = op === "linearCrossEntropy" ? withParts(inputs, attributes) : null;
    if (fused) return apply(op, fused.inputs, fused.attributes);
    if (isProduct(op)) {
      const accumulator = node.inputs[2];
      const isShared = accumulator !== undefined && readers.get(accumulator)!.length > 1;
      const product = products(node, inputs, isShared);
      return product && [product];
    }
    const table = op === "embedding" ? inputs[1]!.node : undefined;
    if (table?.op !== "widen") return null;
    const [ids] = inputs as [Value, Value];
    const flat = reshape(ids, [elements(ids.shape)]);
    const rows = table.inputs.map((part) => apply1("embedding", [flat, part], attributes));
    const out: Shape = [...ids.shape, inputs[1]!.shape[1]!];
    return [reshape(widened(rows, table.attributes["form"] as FormName), out)];
  });
}

/** The weights that are factors of products, but not those of embeddings and of the output layer. */
function innerWeights(graph: Graph): Set<Node> {
  const nodes = nodesOf(graph);
  const inner = new Set<Node>();
  for (const { op, inputs } of nodes) if (isProduct(op) && inputs[1]!.node.op === "weight") inner.add(inputs[1]!.node);
  for (const { op, inputs } of nodes) {
    if (op === "embedding" || op === "linearCrossEntropy") inner.delete(inputs[1]!.node);
    if (op !== "crossEntropy") continue;
    // An output layer that is adapted: the last product before the loss.
    const before = [inputs[0]!.node];
    for (const { op, inputs } of before) {
      const factor = isProduct(op) ? inputs[1]!.node : null;
      if (factor?.op === "weight") inner.delete(factor);
      else before.push(...inputs.map(({ node }) => node).filter(({ op }) => op !== "weight" && op !== "input"));
    }
  }
  return inner;
}

/** The names of the weights that a fused output layer reads. */
const outputWeights = (graph: Graph): Set<string> =>
  new Set(
    nodesOf(graph).flatMap(({ op, inputs }) => (op === "linearCrossEntropy" ? [String(inputs[1]!.node.attributes["name"])] : [])),
  );

const isProduct = (op: Node["op"]): boolean => op === "linear" || op === "gemm";

/** Columns of a layer's input that are kept in float32. */
const OUTLIERS = 8;

interface Quantised {
  q: Value;
  scale: Value;
  outliers: Outliers;
}

/** What makes integer products of the linear layers with rotated weights; null for other nodes. Layers share a quantised input. */
function integerProducts() {
  const known = new Map<Value, Quantised>();
  const quantised = (x: Value): Quantised => {
    const before = known.get(x);
    if (before) return before;
    const { rest, outliers } = splitOutliers(x, OUTLIERS);
    const own = { ...quantiseRows(rotate(rest)), outliers };
    known.set(x, own);
    return own;
  };
  /** x · Wᵀ + z: the outliers meet the same 8-bit weights, of which their rows are read back. */
  const forward = (x: Value, [w, columnScale]: readonly [Value, Value], z?: Value): Value => {
    const { q, scale, outliers } = quantised(x);
    const product = mul(integerProduct(q, w, {}, columnScale), scale);
    const picked = pickedRows(w, columnScale, outliers); // [outliers, out]
    return gemm(outliers.columns, picked, { alpha: 1 / Math.sqrt(ROTATED) }, z ? add(product, z) : product);
  };
  /** d · W, rotated. */
  const backward = (d: Value, [w, columnScale]: readonly [Value, Value]): Value => {
    const { q, scale } = quantiseRows(mul(d, columnScale));
    return mul(integerProduct(q, w, { transB: true }), scale);
  };
  return ({ op, attributes }: Node, inputs: readonly Value[], isShared: boolean): Value | null => {
    const [a, b, c] = inputs as [Value, Value, Value?];
    const isRotated = b.node.op === "widen" && b.node.attributes["form"] === "int8rotated";
    if (!isRotated || attributes["transA"] || (op === "gemm" && attributes["alpha"] !== 1)) return null;
    const parts = b.node.inputs as unknown as [Value, Value];
    if (op === "linear" || attributes["transB"]) return forward(a, parts, c);
    const product = backward(a, parts);
    return (c && !isShared && joined(c, product)) || rotate(product, c);
  };
}

/** `z` + the rotated product, by what adds up in `z` before it is rotated back; null if nothing does. */
function joined(z: Value, product: Value): Value | null {
  const { op, inputs, attributes } = z.node;
  if (op === "rotate") return apply1("rotate", [add(inputs[0]!, product), ...inputs.slice(1)]);
  const below = op === "gemm" && inputs[2] ? joined(inputs[2], product) : null;
  return below && apply1("gemm", [inputs[0]!, inputs[1]!, below], attributes);
}
