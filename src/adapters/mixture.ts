// Several adapters at once, each counting by a weight that every row of a batch has for itself: their factors lie beside each other, and
// A·x is multiplied by the row's weights.
import { type Dim, elements } from "../graph/dims.ts";
import { type Graph, type Node, nodesOf, type Value } from "../graph/graph.ts";
import { mul } from "../graph/ops/elementwise.ts";
import { input } from "../graph/ops/leaves.ts";
import { gemm } from "../graph/ops/linear.ts";
import { float32, type Tensor } from "../tensor.ts";
import { combine } from "./combine.ts";
import { type Adapter, failure } from "./peft-files.ts";

export interface Mixture {
  /** All of them as one, with the sum of their ranks. */
  adapter: Adapter;
  count: number;
  /** By module path, [count, rank]: 1 where a row of A is an adapter's own, 0 elsewhere. */
  owners: ReadonlyMap<string, Float32Array>;
}

/** Adapters as one whose parts can be weighted. Fails as `combine` does for those that are not LoRA or not of one base. */
export function mixtureOf(adapters: readonly Adapter[], options: { anyBase?: boolean } = {}): Mixture {
  const adapter = combine(adapters, { ...options, combinationType: "cat" });
  const ranks = adapters.map(({ modules }) => new Map(modules.map(({ path, rank }) => [path, rank])));
  const owners = adapter.modules.map(({ path, rank }): [string, Float32Array] => {
    const own = new Float32Array(adapters.length * rank);
    let at = 0;
    for (const [a, rankOf] of ranks.entries()) {
      const count = rankOf.get(path) ?? 0;
      own.fill(1, a * rank + at, a * rank + at + count);
      at += count;
    }
    return [path, own];
  });
  return { adapter, count: adapters.length, owners: new Map(owners) };
}

/** Rows of what a layer reads that a sequence's weights are known for: its tokens, and its last token alone. */
const TOKENS = "batch*seq";
const SEQUENCES = "batch";

/** The layers of a graph whose rows can be weighted: not those of experts, or of images. */
export function mixableLayers(graph: Graph): Set<string> {
  const layers = nodesOf(graph).filter(({ op }) => op === "linear" || op === "embedding");
  const rowsOf = ({ op, inputs }: Node) => (op === "linear" ? inputs[0]!.shape[0]! : elements(inputs[0]!.shape));
  return new Set(
    layers
      .filter((node) => [TOKENS, SEQUENCES].includes(String(rowsOf(node))))
      .map(({ attributes }) => String(attributes["path"])),
  );
}

/** Fails with `adapter/not-mixable` for a mixture with a module that is not among these layers, or with something beside its factors. */
export function checkMixable({ adapter }: Mixture, layers: ReadonlySet<string>): void {
  for (const beside of adapter.saved?.keys() ?? []) {
    throw failure("not-mixable", "what is trained beside factors can't be used with several adapters at once", {
      subject: beside,
      expected: "adapters of factors alone",
      got: "one that trains this weight, or rows of it",
      next: "Use that adapter alone, or merge it into the base first (lowrank merge).",
    });
  }
  const subject = adapter.modules.find(({ path }) => !layers.has(path))?.path;
  if (subject === undefined) return;
  throw failure("not-mixable", "adapters on this layer can't be used several at once", {
    subject,
    expected: "layers that compute each token of a text by itself",
    got: "a layer of experts or of images",
    next: "Combine the adapters into one (lowrank combine, combineAdapters), and use that.",
  });
}

/** The symbol for the number of adapters. */
const COUNT = "adapters";
/** The input of weights for values of so many rows: those of tokens, or of sequences. */
const weightsName = (rows: Dim): string => `adapterWeights.${rows}`;

/** What multiplies A·x of each module, [n, rank], by the weights of its rows; these are inputs, and so is what `owners` has. */
export function mixing(): (path: string, rank: Dim) => (low: Value) => Value {
  const inputs = new Map<Dim, Value>();
  const weightsOf = (rows: Dim): Value => {
    const found = inputs.get(rows) ?? input(weightsName(rows), "float32", [rows, COUNT]);
    inputs.set(rows, found);
    return found;
  };
  return (path, rank) => {
    const own = input(ownersName(path), "float32", [COUNT, rank]);
    return (low) => mul(low, gemm(weightsOf(low.shape[0]!), own)); // [n, rank]
  };
}

const ownersName = (path: string): string => `adapterOwners.${path}`;

/** What the input of a module's owners is fed; without a mixture all of its rank is one adapter's. */
export function ownersFeed(path: string, rank: number, mixture: Mixture | null): [string, Tensor] {
  const count = mixture?.count ?? 1;
  return [ownersName(path), float32([count, rank], mixture?.owners.get(path) ?? new Float32Array(count * rank).fill(1))];
}

/** What the inputs of weights are fed, from those of each sequence, [rows, count]: for sequences of `width` tokens, and for their last. */
export function weightFeeds(weights: Float32Array, rows: number, width: number): Record<string, Tensor> {
  const count = weights.length / rows;
  const tokens = Float32Array.from({ length: weights.length * width }, (_, i) => {
    return weights[Math.floor(i / (count * width)) * count + (i % count)]!;
  });
  return {
    [weightsName(TOKENS)]: float32([rows * width, count], tokens),
    [weightsName(SEQUENCES)]: float32([rows, count], weights),
  };
}
