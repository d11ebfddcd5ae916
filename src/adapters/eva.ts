// EVA: A is the directions along which a layer's inputs vary most, and ranks go where they explain most. Paischer et al. 2024, as PEFT
// 0.21.2 computes it (tuners/lora/eva.py, utils/incremental_pca.py), but with exact singular values.
import { z } from "zod";
import { truncateMatrix } from "./svd.ts";

/** PEFT's EvaConfig, under its names. */
export const evaSchema = z.strictObject({
  /** A module's rank is at most this times its own of before. */
  rho: z.number().min(1).default(2),
  /** Directions count as found when those of two batches have this cosine. */
  tau: z.number().min(0).max(1).default(0.99),
  /** Only the tokens that are targets. */
  use_label_mask: z.boolean().default(true),
  label_mask_value: z.literal(-100).default(-100),
  /** Rows of A are divided by the root of their singular value. */
  whiten: z.boolean().default(false),
  /** Alpha goes with the rank, so that the scale stays. */
  adjust_scaling_factors: z.boolean().default(true),
});
export type EvaConfig = z.output<typeof evaSchema>;

/** What is known of a layer's inputs: the principal components of all batches so far, largest first. */
interface Components {
  /** Unit vectors, [count, size]; the largest element of each is positive. */
  directions: Float32Array[];
  /** Singular values of the centered inputs. */
  values: number[];
  /** Of the whole variance, the share that each explains. */
  explained: number[];
}

/** What is kept of all rows so far. */
interface Pca {
  /** Rows that were seen. */
  seen: number;
  /** [size] */
  mean: Float64Array;
  /** Of each column the variance times the number of rows, [size]. */
  squares: Float64Array;
  components: Components | null;
}

const emptyPca = (size: number): Pca => {
  return { seen: 0, mean: new Float64Array(size), squares: new Float64Array(size), components: null };
};

/** Adds `rows` [n, size] to what is known, of which the `count` largest components are kept. Ross et al. 2008. */
function addRows(pca: Pca, rows: Float32Array, count: number): void {
  const size = pca.mean.length;
  const n = rows.length / size;
  const total = pca.seen + n;
  const mean = new Float64Array(size);
  for (let i = 0; i < rows.length; i++) mean[i % size]! += rows[i]! / n;
  const before = pca.components;
  const kept = before?.directions.length ?? 0;
  const stacked = new Float32Array((kept + n + (before ? 1 : 0)) * size);
  for (const [k, direction] of (before?.directions ?? []).entries())
    stacked.set(
      direction.map((value) => value * before!.values[k]!),
      k * size,
    );
  for (let i = 0; i < rows.length; i++) {
    const centered = rows[i]! - mean[i % size]!;
    pca.squares[i % size]! += centered * centered;
    stacked[kept * size + i] = centered;
  }
  if (before) {
    const factor = Math.sqrt((pca.seen / total) * n);
    for (let i = 0; i < size; i++) {
      const shift = factor * (pca.mean[i]! - mean[i]!);
      pca.squares[i]! += shift * shift;
      stacked[(kept + n) * size + i] = shift;
    }
  }
  for (let i = 0; i < size; i++) pca.mean[i] = (pca.mean[i]! * pca.seen + mean[i]! * n) / total;
  pca.seen = total;
  const { loraA, loraB, rank } = truncateMatrix(stacked, stacked.length / size, size, count);
  const values = Array.from({ length: rank }, (_, k) => {
    let sum = 0;
    for (let i = k; i < loraB.length; i += rank) sum += loraB[i]! * loraB[i]!;
    return Math.sqrt(sum);
  });
  const variance = pca.squares.reduce((sum, value) => sum + value, 0);
  pca.components = {
    directions: values.map((_, k) => positive(loraA.slice(k * size, (k + 1) * size))),
    values,
    explained: values.map((value) => (variance > 0 ? (value * value) / variance : 0)),
  };
}

/** The vector or its opposite: the one whose largest element is positive. */
function positive(vector: Float32Array): Float32Array {
  const largest = vector.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
  return largest < 0 ? vector.map((value) => -value) : vector;
}

/** A layer's inputs: the modules that read them, each with the rank that its configuration gives it. */
export interface EvaInput {
  size: number;
  readers: readonly { path: string; rank: number }[];
}

/** What EVA finds for the modules of each input: their ranks, 0 for none, and the rows of A. */
export interface EvaResult {
  ranks: ReadonlyMap<string, number>;
  /** The rows of A of a module, of its rank. */
  loraA(path: string): Float32Array;
}

/** The most batches that are looked at; PEFT goes on until all directions are found. */
const MAX_BATCHES = 512;

/**
 * Looks at batches until the directions of every input stay as they are. `rowsOf` gives, of the inputs that are asked for, the rows of
 * batch `step`, [n, size].
 */
export async function evaOf(
  inputs: readonly EvaInput[],
  { rho, tau, whiten }: EvaConfig,
  rowsOf: (step: number, wanted: readonly number[]) => Promise<ReadonlyMap<number, Float32Array>>,
): Promise<EvaResult> {
  const budget = inputs.flatMap(({ readers }) => readers).reduce((sum, { rank }) => sum + rank, 0);
  const states = inputs.map(({ size, readers }) => {
    const most = Math.min(size, Math.round(Math.max(...readers.map(({ rank }) => rank)) * rho));
    return { most, size, pca: emptyPca(size), isFound: new Array<boolean>(most).fill(false) };
  });
  let ranks = new Map(inputs.flatMap(({ readers }, i) => readers.map(({ path }) => [path, states[i]!.most] as const)));
  const rankOf = (i: number) => ranks.get(inputs[i]!.readers[0]!.path)!;
  for (let step = 0; step < MAX_BATCHES; step++) {
    const open = [...states.keys()].filter((i) => !states[i]!.isFound.slice(0, rankOf(i)).every(Boolean));
    if (open.length === 0) break;
    const batch = await rowsOf(step, open);
    for (const i of open) {
      const { most, size, pca } = states[i]!;
      const rows = batch.get(i)!;
      if (rows.length / size < most) continue;
      const before = pca.components?.directions;
      addRows(pca, rows, most);
      if (before) states[i]!.isFound = pca.components!.directions.map((now, k) => cosine(now, before[k]!) >= tau);
    }
    if (states.every(({ pca }) => pca.components)) ranks = distributed(inputs, states, budget);
  }
  const found = new Map(inputs.flatMap(({ readers }, i) => readers.map(({ path }) => [path, states[i]!] as const)));
  return {
    ranks,
    loraA(path) {
      const { size, pca } = found.get(path)!;
      const rank = ranks.get(path)!;
      const loraA = new Float32Array(rank * size);
      for (let k = 0; k < rank; k++) {
        const direction = pca.components!.directions[k]!;
        const root = Math.sqrt(pca.components!.values[k]!);
        loraA.set(whiten ? direction.map((value) => value / root) : direction, k * size);
      }
      return loraA;
    },
  };
}

/** The ranks that explain most, of all modules together. Of modules that read the same, the first has the highest. */
function distributed(
  inputs: readonly EvaInput[],
  states: readonly { most: number; pca: Pca }[],
  budget: number,
): Map<string, number> {
  const all = inputs.flatMap(({ readers }, i) => readers.map(({ path }, place) => ({ path, i, place })));
  // Equal shares go to the first reader of an input before the others.
  const inOrder = [...all.filter(({ place }) => place === 0), ...all.filter(({ place }) => place > 0)];
  const shares = inOrder.flatMap(({ path, i }) => states[i]!.pca.components!.explained.map((share) => ({ path, share })));
  const counts = new Map(inOrder.map(({ path }) => [path, 0]));
  for (const { path } of shares.sort((a, b) => b.share - a.share).slice(0, budget)) counts.set(path, counts.get(path)! + 1);
  for (const { readers } of inputs) {
    const first = readers[0]!.path;
    for (const { path } of readers) {
      const [own, highest] = [counts.get(path)!, counts.get(first)!];
      if (own > highest) counts.set(first, own).set(path, highest);
    }
  }
  return counts;
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! * a[i]!;
    bb += b[i]! * b[i]!;
  }
  return ab / Math.max(Math.sqrt(aa * bb), 1e-12);
}
