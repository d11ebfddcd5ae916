// Ways of making one update of several, a line each: PEFT 0.21.2's add_weighted_adapter and merge_utils.py. TIES: Yadav et al. 2023;
// DARE: Yu et al. 2024.
import { type Factors, truncateMatrix, truncateProduct } from "./svd.ts";
import { combined, matrixRows } from "./vectors.ts";

/** What an adapter has of one module: scale · B·A, which counts `weight` times. */
export interface Part extends Factors {
  weight: number;
  scale: number;
  /** Uniform numbers in [0, 1), a sequence of its own for each tensor. */
  uniform(length: number, tensor: number): Float32Array;
}

export const majoritySignMethods = ["total", "frequency"] as const;

export interface CombinationOptions {
  /** The share of elements that pruning keeps, above 0 and at most 1. */
  density: number;
  /** What elects an element's sign: the sum of values, or of signs. */
  majoritySignMethod: (typeof majoritySignMethods)[number];
  /** Rank of the result, where it is not that of the factors. */
  rank: number;
}

/** Sizes of a module's weight. */
interface Sizes {
  inFeatures: number;
  outFeatures: number;
}

type Prune = (values: Float32Array, density: number, uniform: (length: number) => Float32Array) => Float32Array;
type Sum = (
  tensors: readonly Float32Array[],
  weights: readonly number[],
  sign: CombinationOptions["majoritySignMethod"],
) => Float32Array;
type Combination = (parts: readonly Part[], options: CombinationOptions, sizes: Sizes) => Factors;

export interface CombinationRow {
  combine: Combination;
  /** It works on A and B apart: all adapters have one rank, which is the result's. */
  needsEqualRanks: boolean;
  /** It keeps a share of the elements, `density`. */
  prunes: boolean;
  /** It elects signs, by `majoritySignMethod`. */
  electsSigns: boolean;
  /** The result's rank is chosen. */
  truncates: boolean;
}

/** On A and on B, each alone. */
const onFactors = (sum: Sum, prune?: Prune): CombinationRow => ({
  ...row(sum, prune),
  needsEqualRanks: true,
  combine(parts, { density, majoritySignMethod }) {
    // The root of a weight goes to either factor, its sign to A.
    const factors = parts.map(({ weight, scale }) => weight * scale);
    const roots = factors.map((factor) => Math.sqrt(Math.abs(factor)));
    const signed = roots.map((root, i) => (factors[i]! >= 0 ? root : -root));
    const of = (name: "loraA" | "loraB", tensor: number, weights: readonly number[]) =>
      sum(
        parts.map((part) => pruned(part[name], density, prune, (length) => part.uniform(length, tensor))),
        weights,
        majoritySignMethod,
      );
    return { loraA: of("loraA", 0, signed), loraB: of("loraB", 1, roots), rank: parts[0]!.rank };
  },
});

/** On scale · B·A, and what comes of it truncated. */
const onProducts = (sum: Sum, prune: Prune): CombinationRow => ({
  ...row(sum, prune),
  truncates: true,
  combine(parts, { density, majoritySignMethod, rank }, { inFeatures, outFeatures }) {
    const deltas = parts.map((part) => pruned(product(part, inFeatures), density, prune, (length) => part.uniform(length, 2)));
    const weights = parts.map(({ weight }) => weight);
    return truncateMatrix(sum(deltas, weights, majoritySignMethod), outFeatures, inFeatures, rank);
  },
});

const row = (sum: Sum, prune?: Prune) => {
  return { needsEqualRanks: false, truncates: false, prunes: prune !== undefined, electsSigns: sum === elected };
};

/** The factors beside each other: exact, and of the sum of the ranks. */
const cat: CombinationRow = { ...row(weightedSum), combine: (parts, _, { outFeatures }) => stacked(parts, outFeatures) };

const svd: CombinationRow = {
  ...cat,
  truncates: true,
  combine: (parts, { rank }, { outFeatures }) => truncateProduct(stacked(parts, outFeatures)).truncated(rank),
};

export const combinations = {
  linear: onFactors(weightedSum),
  cat,
  svd,
  ties: onFactors(elected, largest),
  ties_svd: onProducts(elected, largest),
  dare_linear: onFactors(weightedSum, random),
  dare_ties: onFactors(elected, random),
  dare_linear_svd: onProducts(weightedSum, random),
  dare_ties_svd: onProducts(elected, random),
  magnitude_prune: onFactors(weightedSum, largest),
  magnitude_prune_svd: onProducts(weightedSum, largest),
} satisfies Record<string, CombinationRow>;

export type CombinationType = keyof typeof combinations;
export const combinationTypes = Object.keys(combinations) as CombinationType[];

/** Σ weight · tensor. */
function weightedSum(tensors: readonly Float32Array[], weights: readonly number[]): Float32Array {
  return new Float32Array(combined(tensors, weights, tensors[0]!.length));
}

/** TIES: of each element, the mean of weight · tensor over the tensors whose sign there is the elected one. */
function elected(
  tensors: readonly Float32Array[],
  weights: readonly number[],
  sign: CombinationOptions["majoritySignMethod"],
): Float32Array {
  const votes = sign === "total" ? (value: number) => value : Math.sign;
  return tensors[0]!.map((_, i) => {
    let total = 0;
    for (const tensor of tensors) total += votes(tensor[i]!);
    const majority = total >= 0 ? 1 : -1;
    let [sum, count] = [0, 0];
    for (const [t, tensor] of tensors.entries()) {
      if (Math.sign(tensor[i]!) !== majority) continue;
      sum += weights[t]! * tensor[i]!;
      count++;
    }
    return sum / Math.max(count, 1);
  });
}

const pruned = (values: Float32Array, density: number, prune: Prune | undefined, uniform: (length: number) => Float32Array) =>
  prune && density < 1 ? prune(values, density, uniform) : values;

/** The share of the elements that are largest; of equal ones the first. */
function largest(values: Float32Array, density: number): Float32Array {
  const count = Math.trunc(density * values.length);
  if (count === 0) return new Float32Array(values.length);
  const threshold = kthLargest(values, count);
  let equal = count;
  for (const value of values) if (Math.abs(value) > threshold) equal--;
  return values.map((value) => {
    const size = Math.abs(value);
    return size > threshold || (size === threshold && equal-- > 0) ? value : 0;
  });
}

/** DARE: each element with this probability, and divided by it. */
function random(values: Float32Array, density: number, uniform: (length: number) => Float32Array): Float32Array {
  const draws = uniform(values.length);
  return values.map((value, i) => (draws[i]! < density ? value / density : 0));
}

/** The size of the element that is `count`-th by size. The bits of positive floats are in their order: counted by halves. */
function kthLargest(values: Float32Array, count: number): number {
  const bits = new Uint32Array(values.map(Math.abs).buffer);
  let [rest, high] = [count, 0];
  for (const shift of [16, 0]) {
    const counts = new Uint32Array(65_536);
    for (const each of bits) if (shift === 16 || each >>> 16 === high) counts[(each >>> shift) & 0xffff]!++;
    let bin = counts.length - 1;
    for (; counts[bin]! < rest; bin--) rest -= counts[bin]!;
    if (shift === 16) high = bin;
    else return new Float32Array(Uint32Array.of(high * 65_536 + bin).buffer)[0]!;
  }
  throw new Error("there is no such element");
}

/** scale · B·A, [out, in]. */
function product({ loraA, loraB, rank, scale }: Part, inFeatures: number): Float32Array {
  const rows = matrixRows(loraA, rank);
  const outFeatures = loraB.length / rank;
  const delta = new Float32Array(outFeatures * inFeatures);
  for (let out = 0; out < outFeatures; out++) {
    const row = combined(rows, loraB.subarray(out * rank, (out + 1) * rank), inFeatures);
    delta.set(
      row.map((value) => value * scale),
      out * inFeatures,
    );
  }
  return delta;
}

/** Σ weight · scale · B·A as one product: A's rows below each other with their factors, B's columns beside each other. */
function stacked(parts: readonly Part[], outFeatures: number): Factors {
  const rank = parts.reduce((sum, part) => sum + part.rank, 0);
  const [inFeatures, loraB] = [parts[0]!.loraA.length / parts[0]!.rank, new Float32Array(outFeatures * rank)];
  const loraA = new Float32Array(rank * inFeatures);
  let at = 0;
  for (const part of parts) {
    loraA.set(
      part.loraA.map((value) => value * part.weight * part.scale),
      at * inFeatures,
    );
    for (let out = 0; out < outFeatures; out++) {
      loraB.set(part.loraB.subarray(out * part.rank, (out + 1) * part.rank), out * rank + at);
    }
    at += part.rank;
  }
  return { loraA, loraB, rank };
}
