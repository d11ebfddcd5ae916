// Graph → Graph: of large tables the rows that are read are leaves of their own: those at ids which a batch feeds, and chunks one by one.
import { type Dim, elements } from "./dims.ts";
import { type Attributes, apply1, type Graph, rewrite, type Value } from "./graph.ts";
import { chunkHeights, fusedInputs, outputChain } from "./ops/output-layer.ts";
import { reshape } from "./ops/shape.ts";
import type { FormName } from "./ops/stored.ts";

/** Tables of fewer rows stay whole. All parts of a weight have as many. */
const FEW_ROWS = 2 ** 13;

/** Whether a value is a leaf that holds a weight, or a part of one, with all its rows. */
const isWhole = ({ node: { op, attributes } }: Value): boolean => op === "weight" && attributes["total"] === undefined;

const isLarge = ({ shape }: Value): boolean => Number(shape[0]) >= FEW_ROWS;

/** The feed that has the elements of int32 `ids`, in their order; null if they are computed. */
function feedOf(ids: Value): string | null {
  const { op, inputs, attributes } = ids.node;
  if (op === "reshape") return feedOf(inputs[0]!);
  return op === "input" ? String(attributes["name"]) : null;
}

/** Makes leaves that hold rows of weights, each once. */
function rowLeaves() {
  const known = new Map<string, Value>();
  return (whole: Value, rows: Dim, which: { first: number; count: number } | { at: string }): Value => {
    const { of = whole.node.attributes["name"]!, form, part = 0 } = whole.node.attributes;
    const name = `${whole.node.attributes["name"]} ${Object.values(which).join(" ")}`;
    const { dtype, shape } = whole;
    const own = { name, dtype, shape: [rows, ...shape.slice(1)], of, part, total: Number(shape[0]), ...which };
    const leaf = known.get(name) ?? apply1("weight", [], form === undefined ? own : { ...own, form });
    known.set(name, leaf);
    return leaf;
  };
}

/**
 * The graph in which rows of large tables are looked up before it runs, and output layers meet a chunk of the vocabulary after the other;
 * `cuts` are the values between chunks, where stages can end.
 */
export function tablesByRows(graph: Graph): { graph: Graph; cuts: Value[][] } {
  const leaf = rowLeaves();
  const cuts: Value[][] = [];
  const embeddingOf = ([ids, table]: readonly Value[], out: Value): readonly Value[] | null => {
    const feed = feedOf(ids!);
    if (feed === null || !isWhole(table!) || !isLarge(table!)) return null;
    return [reshape(leaf(table!, elements(ids!.shape), { at: feed }), out.shape)];
  };
  const chainOf = (inputs: readonly Value[], attributes: Attributes): readonly Value[] | null => {
    const form = attributes["form"] as FormName | undefined;
    const { x, parts, labels, further } = fusedInputs(inputs, form);
    const feed = feedOf(labels);
    if (feed === null || further || !parts.every(isWhole) || !isLarge(parts[0]!)) return null;
    const heights = chunkHeights(Number(parts[0]!.shape[0]), Number(attributes["vocabChunks"]));
    const chunks = heights.map((count, i) => parts.map((part) => leaf(part, count, { first: i * heights[0]!, count })));
    const rows = parts.map((part) => leaf(part, x.shape[0]!, { at: feed }));
    const { met, outputs } = outputChain(x, chunks, rows, { ...attributes, chunks: Number(attributes["chunks"]) });
    cuts.push(...met);
    return outputs;
  };
  const rebuilt = rewrite(graph, ({ op, attributes, outputs }, inputs) => {
    if (op === "embedding") return embeddingOf(inputs, outputs[0]!);
    return op === "linearCrossEntropy" ? chainOf(inputs, attributes) : null;
  });
  return { graph: rebuilt, cuts };
}
