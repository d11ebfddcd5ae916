// Which tensors of a loss graph are trained: those of an adapter, or every weight; they become θ, with gradients.

import { withInputs, withSaved } from "../adapters/beside.ts";
import { adapt, dropoutPoolWidth, dropoutStart, type LayerTensors, pooledDropout } from "../adapters/inject.ts";
import { layoutOf, type ThetaEntry, type Trained, trainedEntries } from "../adapters/layout.ts";
import { methodOf } from "../adapters/method-table.ts";
import { dependents, gradients } from "../graph/autodiff.ts";
import { borders } from "../graph/borders.ts";
import type { Dim } from "../graph/dims.ts";
import { fuseAdditions } from "../graph/fuse.ts";
import { check, type Graph, type Node, nodesOf, type Value } from "../graph/graph.ts";
import { mul } from "../graph/ops/elementwise.ts";
import { input, scalar } from "../graph/ops/leaves.ts";
import { unique } from "../graph/unique.ts";
import { sizeOf } from "../tensor.ts";

/**
 * A loss graph that yields dloss/dθ beside its outputs: the gradient of each trained tensor under its key. It is zero for what the
 * loss does not read: the layers of a vision tower behind the features that are used, and all of it where a run has no images.
 * The borders between layers and their gradients are outputs, too: where it can be cut (`stages.ts`).
 */
function withGradient(graph: Graph, entries: readonly ThetaEntry[], parts: readonly Value[]): Graph {
  const scaled = unique({ outputs: { ...graph.outputs, loss: mul(graph.outputs["loss"]!, input("lossScale", "float32", [])) } });
  const loss = scaled.outputs["loss"]!;
  const nodes = nodesOf({ outputs: { loss } });
  const read = new Set(nodes);
  const trained = parts.slice(0, trainedEntries(entries).length); // they come first
  const active = dependents(nodes, new Set(trained));
  const own = new Set(parts);
  const edges = borders(loss, ({ outputs: [leaf] }) => own.has(leaf!));
  const above = edges.filter(({ node }) => active.has(node));
  const leaves = trained.filter(({ node }) => read.has(node));
  const found = gradients(loss, [...leaves, ...above]);
  const named = trained.map((part, i) => [
    gradientName(entries[i]!),
    read.has(part.node) ? found.shift()! : mul(part, scalar(0, part)),
  ]);
  const cuts = edges.flatMap((edge, i) => {
    const gradient = above.includes(edge) ? [[borderGradient(i), found.shift()!] as const] : [];
    return [[border(i), edge] as const, ...gradient];
  });
  const outputs = { ...scaled.outputs, ...Object.fromEntries(named), ...Object.fromEntries(cuts) };
  return unique(fuseAdditions(check({ outputs })));
}

/** The outputs at border `i` of a training graph: the value, and the gradient that passes it. */
export const border = (i: number): string => `border ${i}`;
export const borderGradient = (i: number): string => `border gradient ${i}`;
/** A value after chunk `i` of an output layer that is met in chunks. */
export const chunkBorder = (i: number, part: number): string => `border chunk ${i} ${part}`;
const BORDER = /^border (gradient \d+|chunk \d+ \d+|\d+)$/;
/** Whether an output is one of those. */
export const isAtBorder = (name: string): boolean => BORDER.test(name);

export const gradientName = ({ key }: ThetaEntry) => `gradient ${key}`;

/** What the layers' input is dropped with in training, by path. */
type Dropout = (path: string, x: Value) => Value;

/** A graph with the tensors of θ as inputs under their keys, and those inputs in the order of `layoutOf`. */
export function adaptedGraph(graph: Graph, trained: Trained, dropout?: Dropout): { graph: Graph; parts: Value[] } {
  const layout = layoutOf(trained);
  const parts = layout.map(({ key, shape }) => input(key, "float32", shape));
  const beside = new Map<string, LayerTensors>();
  const values = new Map<string, Value>();
  const scales = new Map(trained.modules.map(({ path, scale }) => [path, scale]));
  for (const [i, entry] of layout.entries()) {
    if ("saved" in entry) values.set(entry.saved, parts[i]!);
    else {
      const tensors = { ...beside.get(entry.path)?.tensors, [entry.name]: parts[i]! } as LayerTensors["tensors"];
      beside.set(entry.path, { tensors, scale: scales.get(entry.path)! });
    }
  }
  const own = withSaved(graph, trained.saved ?? [], ({ name }) => values.get(name)!);
  return { graph: adapt(own, methodOf(trained.config), beside, dropout), parts };
}

/** The graph of training an adapter for a `loss`: the tensors of θ are inputs under their keys, injected beside the frozen layers. */
export function loraGraph(loss: Graph, trained: Trained, dropout: boolean): Graph {
  const dropped = trained.modules.filter(({ isEmbedding }) => !isEmbedding);
  const drop = dropout
    ? pooledDropout(dropped, dropoutPools(dropoutPoolWidth(dropped)), input("dropoutRate", "float32", []))
    : undefined;
  const { graph, parts } = adaptedGraph(loss, trained, drop);
  return withGradient(graph, layoutOf(trained), parts);
}

const POOL = "dropoutPool";

/** The pools of random numbers, by their rows: inputs of the graph. */
function dropoutPools(width: number): (rows: Dim) => Value {
  const pools = new Map<Dim, Value>();
  return (rows) => {
    const pool = pools.get(rows) ?? input(`${POOL} ${rows}`, "float32", [rows, width]);
    pools.set(rows, pool);
    return pool;
  };
}

/** Whether an input of a graph is a pool of random numbers for dropout, [rows, width]. */
export const isPool = (name: string): boolean => name.startsWith(`${POOL} `);

/** The inputs of a graph that are such pools, where modules begin in them, by name, and its other inputs. */
export function inputsOf(graph: Graph): { pools: Node[]; starts: ReadonlyMap<string, number>; others: Node[] } {
  const inputs = nodesOf(graph).filter(({ op }) => op === "input");
  const nameOf = ({ attributes }: Node) => String(attributes["name"]);
  const starts = new Map(
    inputs.flatMap((node) => {
      const start = dropoutStart(nameOf(node));
      return start === undefined ? [] : [[nameOf(node), start] as const];
    }),
  );
  const ofPool = (node: Node) => isPool(nameOf(node));
  return { pools: inputs.filter(ofPool), starts, others: inputs.filter((node) => !ofPool(node) && !starts.has(nameOf(node))) };
}

/** The tensors of θ for full fine-tuning: every weight of the model under its stored name, in the order of the forward pass. */
export function fullEntries(loss: Graph): ThetaEntry[] {
  let offset = 0;
  return nodesOf(loss)
    .filter((node) => node.op === "weight")
    .map(({ attributes }): ThetaEntry => {
      const entry = { key: String(attributes["name"]), offset, shape: attributes["shape"] as number[], group: "weight" as const };
      offset += sizeOf(entry.shape);
      return entry;
    });
}

/** The graph of full fine-tuning: every weight becomes an input under its stored name. */
export function fullGraph(loss: Graph): Graph {
  const entries = fullEntries(loss);
  const inputs = new Map(entries.map(({ key, shape }) => [key, input(key, "float32", shape)]));
  return withGradient(withInputs(loss, inputs), entries, [...inputs.values()]);
}
