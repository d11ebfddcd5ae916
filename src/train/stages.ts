// A training graph as a program: a stage for each layer forward, one for the loss, a stage for each layer backward.
import { type ThetaEntry, trainedEntries } from "../adapters/layout.ts";
import { type Graph, type Node, topological, type Value } from "../graph/graph.ts";
import { recompute } from "../graph/recompute.ts";
import { cut, type Program } from "../graph/stages.ts";
import { type ChooseForm, storeWeights } from "../graph/store.ts";
import { tablesByRows } from "../graph/tables.ts";
import { border, borderGradient, chunkBorder, gradientName, isAtBorder } from "./training-graph.ts";

/** What the forward pass keeps for the backward pass beside the borders; the rest is computed again. */
export const keeps = {
  /** Everything but widened weights: the fastest. */
  all: ({ node }: Value) => node.op !== "widen",
  /** What matrix products and attention made: what lies between is computed again. */
  products: ({ node, index }: Value) => HEAD.has(node.op) || (PRODUCTS.has(node.op) && index === 0),
  /** Nothing but the gradient that the output layer makes on its way: the least memory. */
  none: ({ node }: Value) => HEAD.has(node.op),
} satisfies Record<string, (value: Value) => boolean>;

export type Keep = keyof typeof keeps;

export interface StageOptions {
  keep: Keep;
  /** The forms that frozen weights are kept in; float32 if absent. */
  form?: ChooseForm;
  /** Whether they are read anew at every step. */
  streamed?: boolean;
}

const PRODUCTS = new Set(["linear", "gemm", "attention"]);
/** What makes its input's gradient in the forward pass. */
const HEAD = new Set(["linearCrossEntropy", "outputChunk", "outputLoss"]);

/** The program of a graph as `loraGraph` and `fullGraph` make it. Results have the names of the graph's outputs. */
export function trainingProgram(whole: Graph, entries: readonly ThetaEntry[], { keep, form, streamed }: StageOptions): Program {
  const stored = form ? storeWeights(whole, form) : whole;
  const { graph, cuts } = streamed ? tablesByRows(stored) : { graph: stored, cuts: [] };
  const names = Object.keys(graph.outputs);
  const trained = trainedEntries(entries);
  const gradients = new Set(trained.map(gradientName));
  const edges = names.map((_, i) => border(i)).filter((name) => name in graph.outputs);
  const measured = names.filter((name) => !isAtBorder(name) && !gradients.has(name));
  const held = new Set(edges.map((name) => graph.outputs[name]!));
  const forward = [...measured, ...edges].map((name) => graph.outputs[name]!);
  const isKept = (value: Value) => held.has(value) || keeps[keep](value);
  const { outputs } = recompute(graph, forward, isKept);

  const pick = (chosen: readonly string[]) => Object.fromEntries(chosen.map((name) => [name, outputs[name]!]));
  const sections = [...edges.map((name) => pick([name])), pick(measured)];
  // A tensor's gradient comes with the section that first reads the tensor.
  const seen = new Set<Node>();
  const readIn = sections.map((section) => {
    const found = topological(Object.values(section), seen);
    for (const node of found) seen.add(node);
    return new Set(found.flatMap(({ op, attributes }) => (op === "input" ? [String(attributes["name"])] : [])));
  });
  const backward = sections
    .map((_, i) => {
      const own = trained.filter(({ key }) => readIn[i]!.has(key)).map(gradientName);
      const before = i > 0 ? [borderGradient(i - 1)].filter((name) => name in outputs) : [];
      return pick([...own, ...before]);
    })
    .reverse();
  const unread = trained.filter(({ key }) => !readIn.some((names) => names.has(key))).map(gradientName);
  const ofTheta = new Set(entries.map(({ key }) => key));
  const chunks = cuts.map((met, i) => Object.fromEntries(met.map((value, part) => [chunkBorder(i, part), value])));
  const last = sections.pop()!;
  const groups = [...sections, ...chunks, last, ...backward, pick(unread)].filter((group) => Object.keys(group).length > 0);
  return cut(groups, ({ op, attributes }) => op === "input" && ofTheta.has(String(attributes["name"])));
}
