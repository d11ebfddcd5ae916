// What is trained beside the factors as a graph pass: inputs in the place of weights, or of rows of them (saved.ts says which).
import { elements, type Shape } from "../graph/dims.ts";
import { apply, type Graph, type Node, nodesOf, rewrite, type Value } from "../graph/graph.ts";
import { add, equal, less, where } from "../graph/ops/elementwise.ts";
import { embedding, scatterAddRows } from "../graph/ops/indexing.ts";
import { constant, input, iota, scalar } from "../graph/ops/leaves.ts";
import { gemm } from "../graph/ops/linear.ts";
import { capLogits } from "../graph/ops/output-layer.ts";
import { reduceMax } from "../graph/ops/reduction.ts";
import { concat, reshape, transpose } from "../graph/ops/shape.ts";
import { splitTrained } from "./inject.ts";
import type { SavedWeight } from "./saved.ts";

/** The name of the input in the place of a weight that an adapter trains beside its factors. */
export const savedInput = (weight: string): string => `saved.${weight}`;

/** The graph with inputs in the place of all its weights that `inputs` has, by name, wherever they are read. */
export function withInputs(graph: Graph, inputs: ReadonlyMap<string, Value>): Graph {
  const replaced = rewrite(graph, ({ op, attributes }) => {
    const own = op === "weight" ? inputs.get(String(attributes["name"])) : undefined;
    return own ? [own] : null;
  });
  return splitTrained(replaced);
}

/** The graph with `inputOf` of each of `saved`, by default an input called by `savedInput`, in the place of its weight or its rows. */
export function withSaved(
  graph: Graph,
  saved: readonly SavedWeight[],
  inputOf = ({ name, shape }: SavedWeight): Value => input(savedInput(name), "float32", shape),
): Graph {
  if (saved.length === 0) return graph;
  const whole = new Map<string, Value>();
  const rows = new Map<string, TrainedRows>();
  for (const weight of saved) {
    const value = inputOf(weight);
    for (const name of [weight.name, ...(weight.tied ?? [])]) {
      if (weight.rows) rows.set(name, { rows: weight.rows, value });
      else whole.set(name, value);
    }
  }
  const replaced = splitTrained(rewrite(graph, (node, inputs) => withWhole(node, inputs, whole)));
  if (rows.size === 0) return replaced;
  return rewrite(replaced, (node, inputs, rebuilt) => {
    const own = isLayer(node) ? rows.get(weightOf(node)) : undefined;
    return own ? withRows[node.op as keyof typeof withRows](node, inputs, own, rebuilt) : null;
  });
}

/** Of `saved`, what a graph reads the weights of. */
export function savedReadBy<W extends SavedWeight>(graph: Graph, saved: readonly W[]): W[] {
  const names = new Set(
    nodesOf(graph).flatMap((node) => {
      if (node.op === "weight") return [String(node.attributes["name"])];
      return isLayer(node) && node.inputs[1]!.node.op === "weight" ? [weightOf(node)] : [];
    }),
  );
  return saved.filter(({ name, tied = [] }) => [name, ...tied].some((one) => names.has(one)));
}

const layers = new Set(["linear", "embedding", "linearCrossEntropy"]);
const isLayer = ({ op }: Node): boolean => layers.has(op);
/** What a layer's weight is called, whichever tensor it is one with. */
const weightOf = ({ attributes }: Node): string => `${attributes["path"]}.weight`;

/** A node over the values of weights that are replaced. A layer that shares another's weight goes by its own name. */
function withWhole(node: Node, inputs: readonly Value[], whole: ReadonlyMap<string, Value>): readonly Value[] | null {
  const { op, attributes } = node;
  if (op === "weight") {
    const own = whole.get(String(attributes["name"]));
    return own ? [own] : null;
  }
  const leaf = isLayer(node) ? node.inputs[1]! : undefined;
  if (leaf?.node.op !== "weight" || leaf.node.attributes["name"] === weightOf(node)) return null;
  return apply(op, [inputs[0]!, whole.get(weightOf(node)) ?? leaf, ...inputs.slice(2)], attributes);
}

/** Trained rows [rows, columns] of a table. */
interface TrainedRows {
  rows: readonly number[];
  value: Value;
}

/** For int32 ids [n, 1], where each is among the rows, -1 for none: [n, 1]. */
function placesOf(ids: Value, rows: readonly number[]): Value {
  const known = constant("int32", [1, rows.length], rows);
  const place = reshape(iota(rows.length), [1, rows.length]);
  return reduceMax(where(equal(ids, known), place, scalar(-1, place)), [1]);
}

type WithRows = (node: Node, inputs: readonly Value[], trained: TrainedRows, rebuilt: () => readonly Value[]) => readonly Value[];

/** What takes the place of a layer some rows of whose weight are trained. */
const withRows = {
  embedding({ attributes }, [ids], { rows, value }, rebuilt) {
    const y = rebuilt()[0]!;
    const n = elements(ids!.shape);
    const places = placesOf(reshape(ids!, [n, 1]), rows);
    const padding = rows.indexOf(Number(attributes["padding"] ?? -1));
    const within = reshape(where(less(places, scalar(0, places)), scalar(0, places), places), [n]);
    const path = `${attributes["path"]}.token_adapter`;
    const own = embedding(within, value, path, padding < 0 ? null : padding); // [n, columns]
    const flat = reshape(y, [n, y.shape.at(-1)!]);
    return [reshape(where(less(places, scalar(0, places)), flat, own), y.shape as Shape)];
  },
  linear(_, [x], { rows, value }, rebuilt) {
    const y = rebuilt()[0]!; // [n, out]
    const out = y.shape[1]!;
    const at = constant("int32", [rows.length], rows);
    const spread = (columns: Value) => transpose(scatterAddRows(columns, at, out), [1, 0]);
    const own = spread(gemm(value, x!, { transB: true })); // [n, out]
    const ones = constant("float32", [rows.length, 1], new Array(rows.length).fill(1));
    return [where(less(scalar(0, y), spread(ones)), own, y)];
  },
  /** Their logits are further ones, those of the frozen rows do not count. */
  linearCrossEntropy({ attributes }, [x, weight, labels, further], { rows, value }) {
    const softcap = attributes["softcap"] as number | undefined;
    const products = gemm(x!, value, { transB: true }); // [n, rows]
    const logits = softcap ? capLogits(products, softcap) : products;
    const all = further ? concat([further, logits], 1) : logits;
    const n = labels!.shape[0]!;
    const places = reshape(placesOf(reshape(labels!, [n, 1]), rows), [n]);
    const first = Number(weight!.shape[0]) + (further ? Number(further.shape[1]) : 0);
    const moved = where(less(places, scalar(0, places)), labels!, add(places, scalar(first, places)));
    return apply("linearCrossEntropy", [x!, weight!, moved, all], { ...attributes, without: rows });
  },
} satisfies Partial<Record<Node["op"], WithRows>>;
