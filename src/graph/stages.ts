// A graph cut into stages that run one after the other: each a graph of its own, whose inputs say where they come from.
import { weighted } from "./borders.ts";
import { type Dim, polynomial } from "./dims.ts";
import { apply, type Graph, type Node, nodesOf, rewrite, topological, type Value } from "./graph.ts";
import { input } from "./ops/leaves.ts";
import type { FormName } from "./ops/stored.ts";

/** Where an input of a stage comes from: what the caller feeds, a weight of the checkpoint, or a value of an earlier stage. */
export type StageSource =
  | { kind: "feed"; name: string }
  | { kind: "weight"; name: string; part?: WeightPart }
  | { kind: "value"; value: number };

/** Which part of which weight a leaf is, where it is not a whole weight in float32 (`ops/stored.ts`). */
export interface WeightPart {
  of: string;
  /** Null for float32. */
  form: FormName | null;
  part: number;
  /** The rows that the leaf has, if not all. */
  rows?: Rows;
}

/** Rows of a weight that has `total`: so many from one on, or those at the ids of an int32 feed, in their order. */
export type Rows = { total: number } & ({ first: number; count: number } | { at: string });

export interface StageInput {
  source: StageSource;
  /** The input as the stage's graph has it. */
  leaf: Value;
}

export interface Stage {
  graph: Graph;
  inputs: readonly StageInput[];
  /** Numbers of the values that it makes, by the names of its graph's outputs. */
  outputs: readonly { name: string; value: number }[];
}

export interface Program {
  stages: readonly Stage[];
  /** Numbers of the values that the caller can ask for, by name. */
  results: ReadonlyMap<string, number>;
}

/** A program whose stages are given all their weights, in place of having them as their own. */
export function givenWeights({ stages, results }: Program): Program {
  const given = stages.map(({ graph, inputs, outputs }): Stage => {
    const more: StageInput[] = [];
    const replaced = rewrite(graph, (node) => {
      if (node.op !== "weight" || node.attributes["of"] !== undefined) return null;
      const [{ dtype, shape }] = node.outputs as [Value];
      const leaf = input(`weight ${more.length}`, dtype, shape);
      more.push({ source: { kind: "weight", name: String(node.attributes["name"]) }, leaf });
      return [leaf];
    });
    return { graph: replaced, inputs: [...inputs, ...more], outputs };
  });
  return { stages: given, results };
}

/** What one run does for the results that are asked for. */
export interface StagePlan {
  steps: { stage: number; wanted: { index: number; value: number }[]; freed: number[] }[];
  results: { name: string; value: number }[];
}

/** The graph as a program of one stage, whose weights are its own: the engine reads them in place, and packs them for its products. */
export function whole(graph: Graph): Program {
  const leaves = nodesOf(graph).filter(({ op }) => op === "input");
  const inputs = leaves.map(({ attributes, outputs: [leaf] }): StageInput => {
    return { source: { kind: "feed", name: String(attributes["name"]) }, leaf: leaf! };
  });
  const outputs = Object.keys(graph.outputs).map((name, value) => ({ name, value }));
  return { stages: [{ graph, inputs, outputs }], results: new Map(outputs.map(({ name, value }) => [name, value])) };
}

/** More stages than this read a value of the batch: it is computed once, before them all. Fewer compute it themselves. */
const SHARED_BY = 2;

/** Leaves, and what follows from constants alone: every stage has its own. */
function repeated(nodes: readonly Node[]): Set<Node> {
  const found = new Set<Node>();
  for (const node of nodes) {
    const isLeaf = node.inputs.length === 0;
    if (isLeaf || node.inputs.every((value) => found.has(value.node) && isConstant(value.node, found))) found.add(node);
  }
  return found;
}

const isConstant = ({ op, inputs }: Node, found: ReadonlySet<Node>): boolean =>
  op === "constant" || (inputs.length > 0 && inputs.every(({ node }) => found.has(node)));

/**
 * Cuts what the groups of values need into a stage for each group: what no earlier stage has computed. Equal layers become equal
 * graphs, since inputs and outputs are named in the order of the walk. What depends on the batch alone and is read in many stages
 * comes in a first stage; in few, each has it again.
 */
export function cut(groups: readonly Readonly<Record<string, Value>>[], isTrained: (node: Node) => boolean): Program {
  const nodes = topological(groups.flatMap((group) => Object.values(group)));
  const own = repeated(nodes);
  const inner = weighted(nodes, isTrained);
  const ofBatch = (node: Node) => !inner.has(node) && !own.has(node);

  const first = sharedValues(groups, ofBatch);
  const all = [Object.fromEntries(first.entries()), ...groups];
  const isShared = new Set(first);
  const stays = (node: Node) => own.has(node) || ofBatch(node); // made again wherever it is read, unless it is shared

  const home = new Map<Node, number>();
  const ordered = all.map((group, at) => {
    const found = topological(Object.values(group), home).filter((node) => at === 0 || !stays(node));
    for (const node of found) home.set(node, at);
    return found;
  });

  // What crosses from a stage to a later one, numbered in the order in which it is made.
  const numbers = new Map<Value, number>();
  const number = (value: Value): number => {
    const known = numbers.get(value) ?? numbers.size;
    numbers.set(value, known);
    return known;
  };
  const crossing = new Map<number, Set<Value>>();
  const crosses = (value: Value, at: number): boolean => {
    if (isShared.has(value)) return at > 0;
    return !stays(value.node) && home.get(value.node)! < at;
  };
  all.forEach((group, at) => {
    const isGiven = (value: Value) => crosses(value, at);
    for (const value of inOrder(Object.values(group), isGiven).filter(isGiven)) {
      const from = isShared.has(value) ? 0 : home.get(value.node)!;
      crossing.set(from, (crossing.get(from) ?? new Set()).add(value));
    }
  });

  const feeds = nodes.filter((node) => node.op === "input");
  const results = new Map<string, number>();
  const stages = all.map((group, at): Stage => {
    const place = new Map(ordered[at]!.map((node, i) => [node, i]));
    const later = [...(crossing.get(at) ?? [])].sort((a, b) => place.get(a.node)! - place.get(b.node)! || a.index - b.index);
    const made = [...new Set([...Object.values(group), ...later])].filter((value) => !crosses(value, at));
    if (at > 0) for (const [name, value] of Object.entries(group)) results.set(name, number(value));
    return extract(made, (value) => crosses(value, at), number, feeds);
  });
  return { stages: stages.filter(({ outputs }) => outputs.length > 0), results };
}

/** Values of the batch that nodes of many stages read, in the order of the walk. */
function sharedValues(groups: readonly Readonly<Record<string, Value>>[], ofBatch: (node: Node) => boolean): Value[] {
  const readers = new Map<Value, Set<number>>();
  const seen = new Set<Node>();
  groups.forEach((group, at) => {
    for (const value of Object.values(group))
      if (ofBatch(value.node)) readers.set(value, (readers.get(value) ?? new Set()).add(at));
    for (const node of topological(Object.values(group), seen)) {
      if (ofBatch(node)) continue;
      seen.add(node);
      for (const value of node.inputs) {
        if (ofBatch(value.node)) readers.set(value, (readers.get(value) ?? new Set()).add(at));
      }
    }
  });
  return [...readers].filter(([, stages]) => stages.size > SHARED_BY).map(([value]) => value);
}

/** The graph of `outputs` down to what `isGiven`, the leaves and the feeds. */
function extract(
  outputs: readonly Value[],
  isGiven: (value: Value) => boolean,
  number: (value: Value) => number,
  feeds: readonly Node[],
): Stage {
  const made = new Map<Value, Value>();
  const inputs: StageInput[] = [];
  const leaf = (value: Value, source: StageSource): Value => {
    const own = input(`i${inputs.length}`, value.dtype, value.shape);
    inputs.push({ source, leaf: own });
    made.set(value, own);
    return own;
  };
  const symbols = new Set<string>();
  const note = (dim: Dim) => {
    for (const symbol of symbolsOf(dim)) symbols.add(symbol);
  };
  const build = ({ node }: Value): void => {
    for (const { shape } of node.outputs) shape.forEach(note);
    if (node.op === "iota") note(node.attributes["size"] as Dim);
    const name = String(node.attributes["name"]);
    if (node.op === "input") leaf(node.outputs[0]!, { kind: "feed", name });
    else if (node.op === "weight") leaf(node.outputs[0]!, { kind: "weight", name, part: partOf(node) });
    else {
      const rebuilt = apply(
        node.op,
        node.inputs.map((value) => made.get(value)!),
        node.attributes,
      );
      for (const [i, output] of node.outputs.entries()) if (!made.has(output)) made.set(output, rebuilt[i]!);
    }
  };
  for (const value of inOrder(outputs, isGiven)) {
    if (made.has(value)) continue;
    if (isGiven(value)) leaf(value, { kind: "value", value: number(value) });
    else build(value);
  }
  const table = outputs.map((value, i) => ({ name: `o${i}`, value: number(value), built: made.get(value)! }));
  const carried = new Set(inputs.flatMap(({ leaf: { shape } }) => shape));
  for (const symbol of symbols) {
    if (carried.has(symbol)) continue;
    const feed = feeds.find(({ outputs: [value] }) => value!.shape.includes(symbol));
    if (!feed) continue; // a symbol of one op's inside
    const [value] = feed.outputs as [Value];
    leaf(value, { kind: "feed", name: String(feed.attributes["name"]) });
    for (const dim of value.shape) carried.add(dim);
  }
  const graph: Graph = { outputs: Object.fromEntries(table.map(({ name, built }) => [name, built])) };
  return { graph, inputs, outputs: table.map(({ name, value }) => ({ name, value })) };
}

function partOf({ attributes: { of, form, part, total, first, count, at } }: Node): WeightPart | undefined {
  if (of === undefined) return undefined;
  const whole = { of: String(of), form: (form as FormName | undefined) ?? null, part: Number(part) };
  if (total === undefined) return whole;
  const range = at === undefined ? { first: Number(first), count: Number(count) } : { at: String(at) };
  return { ...whole, rows: { total: Number(total), ...range } };
}

/** Every value below `outputs`, down to what `isGiven`, inputs before what reads them. */
function inOrder(outputs: readonly Value[], isGiven: (value: Value) => boolean): Value[] {
  const order: Value[] = [];
  const seen = new Set<Value>();
  const stack = [...outputs].reverse().map((value) => ({ value, next: 0 }));
  while (stack.length > 0) {
    const top = stack.at(-1)!;
    if (top.next === 0 && seen.has(top.value)) {
      stack.pop();
      continue;
    }
    seen.add(top.value);
    const below = isGiven(top.value) ? undefined : top.value.node.inputs[top.next++];
    if (below) stack.push({ value: below, next: 0 });
    else {
      order.push(top.value);
      stack.pop();
    }
  }
  return order;
}

const symbolsOf = (dim: Dim): string[] =>
  typeof dim === "number" ? [] : [...polynomial(dim).keys()].flatMap((monomial) => monomial.split("*")).filter(Boolean);

/** The stages that `names` need, what each makes for them, and after which each value has its last reader. */
export function schedule({ stages, results }: Program, names: readonly string[]): StagePlan {
  const wantedResults = names.map((name) => {
    const value = results.get(name);
    if (value === undefined) throw new Error(`the program has no result ${name}`);
    return { name, value };
  });
  const isResult = new Set(wantedResults.map(({ value }) => value));
  const needed = new Set(isResult);
  const steps: StagePlan["steps"] = [];
  const alive = new Set(isResult);
  for (let stage = stages.length - 1; stage >= 0; stage--) {
    const { inputs, outputs } = stages[stage]!;
    const wanted = outputs.flatMap(({ value }, index) => (needed.has(value) ? [{ index, value }] : []));
    if (wanted.length === 0) continue;
    const freed: number[] = [];
    for (const { source } of inputs) {
      if (source.kind !== "value") continue;
      needed.add(source.value);
      if (!alive.has(source.value)) freed.push(source.value);
      alive.add(source.value);
    }
    steps.unshift({ stage, wanted, freed });
  }
  return { steps, results: wantedResults };
}
