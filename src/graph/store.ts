// Graph → Graph: frozen weights in another form than float32, widened where they are read, or multiplied with as they are.
import { elements, type Shape } from "./dims.ts";
import { apply, apply1, type Graph, type Node, nodesOf, rewrite, usersOf, type Value } from "./graph.ts";
import { add, mul } from "./ops/elementwise.ts";
import { input } from "./ops/leaves.ts";
import { gemm } from "./ops/linear.ts";
import { withParts } from "./ops/output-layer.ts";
import { columnsAt, integerProduct, quantiseRows, rotate, withoutColumns } from "./ops/rotated.ts";
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
    for (const node of before) {
      const [, factor, sum] = node.inputs;
      if (!isProduct(node.op))
        before.push(...node.inputs.map((value) => value.node).filter(({ op }) => op !== "weight" && op !== "input"));
      else if (factor!.node.op === "weight") inner.delete(factor!.node);
      else if (sum) before.push(sum.node);
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

/** Columns of a layer's input that are kept in float32, with the rows of its weight that they meet. */
export const OUTLIERS = 16;

/** What a program with rotated weights is fed beside a batch: the outliers of the input of a layer, or the rows of a weight there. */
export interface OutlierInput {
  /** The weight of the first layer that reads the input. */
  at: string;
  /** The weight whose rows they are; the places of the outliers if absent. */
  of?: string;
}

const PREFIX = "outliers ";
const outlierName = ({ at, of }: OutlierInput): string => PREFIX + JSON.stringify(of === undefined ? [at] : [at, of]);

/** What an input of a program is, if it is of outliers. */
export function outlierInput(name: string): OutlierInput | null {
  if (!name.startsWith(PREFIX)) return null;
  const [at, of] = JSON.parse(name.slice(PREFIX.length)) as [string, string?];
  return { at, of };
}

interface Quantised {
  q: Value;
  scale: Value;
  /** The weight by which the outliers' places are known. */
  at: string;
  /** The columns that stand out, [n, OUTLIERS]. */
  outliers: Value;
}

/** The weight that is multiplied with in `x · Wᵀ`, a layer's product; null for other nodes. */
export function layerWeight({ op, attributes }: Node, weight: Node): string | null {
  const isLayer =
    op === "linear" || (op === "gemm" && attributes["transB"] && !attributes["transA"] && attributes["alpha"] === 1);
  return isLayer ? String(weight.attributes["of"] ?? weight.attributes["name"]) : null;
}

/** What makes integer products of the linear layers with rotated weights; null for other nodes. Layers share a quantised input. */
function integerProducts() {
  const known = new Map<Value, Quantised>();
  const quantised = (x: Value, at: string): Quantised => {
    const before = known.get(x);
    if (before) return before;
    const places = input(outlierName({ at }), "int32", [OUTLIERS]);
    const own = { ...quantiseRows(rotate(withoutColumns(x, places))), at, outliers: columnsAt(x, places) };
    known.set(x, own);
    return own;
  };
  /** x · Wᵀ + z. */
  const forward = (x: Value, [w, columnScale]: readonly [Value, Value], of: string, z?: Value): Value => {
    const { q, scale, at, outliers } = quantised(x, of);
    const product = mul(integerProduct(q, w, {}, columnScale), scale);
    const rows = input(outlierName({ at, of }), "float32", [OUTLIERS, w.shape[1]!]);
    return gemm(outliers, rows, {}, z ? add(product, z) : product);
  };
  /** d · W, rotated. */
  const backward = (d: Value, [w, columnScale]: readonly [Value, Value]): Value => {
    const { q, scale } = quantiseRows(mul(d, columnScale));
    return mul(integerProduct(q, w, { transB: true }), scale);
  };
  return (node: Node, inputs: readonly Value[], isShared: boolean): Value | null => {
    const { op, attributes } = node;
    const [a, b, c] = inputs as [Value, Value, Value?];
    const isRotated = b.node.op === "widen" && b.node.attributes["form"] === "int8rotated";
    if (!isRotated || attributes["transA"] || (op === "gemm" && attributes["alpha"] !== 1)) return null;
    const parts = b.node.inputs as unknown as [Value, Value];
    const of = layerWeight(node, parts[0].node);
    if (of !== null) return forward(a, parts, of, c);
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
