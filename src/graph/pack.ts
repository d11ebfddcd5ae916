// Graph → Graph: what a frozen base is kept in where it is only read. Weights of linear layers in fewer bits, tables of embeddings as stored.
import { borders } from "./borders.ts";
import { apply1, type Graph, type Node, nodesOf, rewrite, topological, type Value } from "./graph.ts";
import { add, cast } from "./ops/elementwise.ts";
import { weight } from "./ops/leaves.ts";
import { BLOCK, packedLinear } from "./ops/packed.ts";
import { type FormName, forms } from "./ops/stored.ts";
import { cut, type Program, whole } from "./stages.ts";
import { partName, SMALL, storeWeights } from "./store.ts";
import { unique } from "./unique.ts";

/** What the weights of a frozen base are kept in. */
export const baseDtypes = ["float32", "bfloat16", "int8", "int4"] as const;
export type BaseDtype = (typeof baseDtypes)[number];

type Stored = (name: string) => string;

/**
 * The program of a graph whose base is kept in `dtype`. `stored` is a weight's dtype in the checkpoint. In 16 bits weights are widened
 * whenever they are read: as float16, which the processor widens faster than bfloat16, and which holds any bfloat16 between 2^-17 and
 * 65504 exactly. In 8 and 4 bits linear layers multiply with what is stored; weights that others read stay as they are.
 */
export function programIn(dtype: BaseDtype, graph: Graph, stored: Stored): Program {
  const readsWeights = nodesOf(graph).some(({ op }) => op === "weight");
  if (dtype === "float32" || !readsWeights) return whole(graph);
  if (dtype !== "bfloat16") return whole(packLinears(lookups(graph, stored), dtype === "int8" ? 8 : 4));
  return byLayer(graph, (layers) =>
    storeWeights(layers, ({ shape: [rows, columns] }) => (rows * columns < SMALL ? null : "float16")),
  );
}

/** Borders that a stage goes over: a layer of a decoder has one after its attention and one after its MLP. */
const BORDERS = 2;

/** A stage a layer of what `kept` makes of the graph: the engine may widen all weights of a stage before it multiplies with the first. */
function byLayer(whole: Graph, kept: (graph: Graph) => Graph): Program {
  const { outputs } = unique(whole);
  const sizes = Object.values(outputs).map((value) => ({ value, size: topological([value]).length }));
  const deepest = sizes.reduce((a, b) => (b.size > a.size ? b : a)).value;
  const edges = borders(deepest, () => false).filter((edge, i) => i % BORDERS === 0 && edge !== deepest);
  const named = Object.fromEntries(edges.map((edge, i) => [`border ${i}`, edge]));
  const layers = kept({ outputs: { ...outputs, ...named } }).outputs;
  const results = Object.fromEntries(Object.keys(outputs).map((name) => [name, layers[name]!]));
  return cut([...Object.keys(named).map((name) => ({ [name]: layers[name]! })), results], () => false);
}

/** Rows of tables are read as they are stored, and become float32 behind. */
const lookups = (graph: Graph, stored: Stored): Graph =>
  rewrite(graph, ({ op, attributes }, [ids, table]) => {
    if (op !== "embedding" || table?.node.op !== "weight") return null;
    const kept = stored(String(table.node.attributes["name"]));
    if (kept !== "bfloat16" && kept !== "float16") return null;
    const [part] = partsOf(table.node, kept);
    return [cast(apply1("embedding", [ids!, part!], attributes), "float32")];
  });

/** The leaves that hold a weight in a form. */
function partsOf({ attributes }: Node, form: FormName): Value[] {
  const [name, [rows, columns]] = [String(attributes["name"]), attributes["shape"] as [number, number]];
  return forms[form].parts(rows, columns).map(({ dtype, shape }, part) => {
    return apply1("weight", [], { name: partName(name, form, part), dtype, shape, of: name, form, part });
  });
}

/** Whether a node is a linear layer over a weight of `least` elements whose rows are made of whole blocks. */
function isPackedLinear({ op, inputs, attributes: { transA, transB, alpha } }: Node, least: number): boolean {
  if (op !== "linear" && !(op === "gemm" && !transA && transB && alpha === 1)) return false;
  const { node, shape } = inputs[1]!;
  const [rows, columns] = shape.map(Number) as [number, number];
  return node.op === "weight" && rows * columns >= least && columns % BLOCK === 0;
}

/** Linear layers over weights of `least` elements in `bits` bits; the last ones, which make logits, have 8. */
export function packLinears(graph: Graph, bits: 4 | 8, least = SMALL): Graph {
  const isPackable = (node: Node) => isPackedLinear(node, least);
  const layers = nodesOf(graph).filter(isPackable);
  const inner = new Set(topological(layers.flatMap(({ inputs }) => inputs)));
  const made = new Map<string, Value[]>();
  return rewrite(graph, (node, [x, weight, further]) => {
    if (!isPackable(node)) return null;
    const own = inner.has(node) ? bits : 8;
    const key = `${own} ${weight!.node.attributes["name"]}`;
    const parts = made.get(key) ?? partsOf(weight!.node, `packed${own}`);
    made.set(key, parts);
    if (node.op === "linear") return [packedLinear(x!, parts, own, String(node.attributes["path"]), further)];
    const y = packedLinear(x!, parts, own, "");
    return [further ? add(y, further) : y];
  });
}

/** The product y of x [n, in] with a weight of so many rows in a packed form, and the leaves of its parts. */
export function packedProbe(x: Value, rows: number, form: FormName): { graph: Graph; parts: Value[] } {
  const w = weight("w", [rows, Number(x.shape[1])]);
  const parts = partsOf(w.node, form);
  return { graph: { outputs: { y: packedLinear(x, parts, form === "packed8" ? 8 : 4, "") } }, parts };
}
