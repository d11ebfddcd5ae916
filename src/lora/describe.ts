// What an adapter is: counts, ranks, how large its update is and in how many directions it goes, without forming it.
import type { Adapter } from "./adapter.ts";
import type { AdapterModule } from "./match.ts";
import { effectiveRank, singularValues } from "./spectrum.ts";

/** Up to this rank an update's directions are counted; it takes about 15·rank³ operations a module. */
export const MAX_SPECTRUM_RANK = 1024;

export interface ModuleDescription extends AdapterModule {
  parameters: number;
  /** Frobenius norms of A, of B, and of the update s·B·A that the module's weight gets. */
  normA: number;
  normB: number;
  normDelta: number;
  /** How many directions the update has, 0 to rank: exp of the entropy of its singular values. null above `MAX_SPECTRUM_RANK`. */
  effectiveRank: number | null;
}

export interface AdapterDescription {
  parameters: number;
  /** How many modules have each rank, lowest rank first. */
  ranks: Map<number, number>;
  /** Norms over all modules together: the root of the sum of squares. */
  normA: number;
  normB: number;
  normDelta: number;
  modules: ModuleDescription[];
}

/** Counts and norms of an adapter, each module's and all together. */
export function describeAdapter(adapter: Adapter): AdapterDescription {
  const modules = adapter.modules.map((module): ModuleDescription => {
    const { path, rank, scale, inFeatures, outFeatures } = module;
    const { loraA, loraB } = adapter.tensors.get(path)!;
    const rowsOfA = { values: loraA, rank, length: inFeatures, vectorStep: inFeatures, step: 1 };
    const columnsOfB = { values: loraB, rank, length: outFeatures, vectorStep: 1, step: rank };
    const facts = { ...module, parameters: loraA.length + loraB.length, normA: normOf(loraA), normB: normOf(loraB) };
    if (rank > MAX_SPECTRUM_RANK) {
      return { ...facts, normDelta: Math.abs(scale) * productNorm(rowsOfA, columnsOfB), effectiveRank: null };
    }
    const [gramA, gramB] = [gram(rowsOfA), gram(columnsOfB)];
    // ‖s·B·A‖² = s²·trace(AᵀBᵀBA) = s²·Σ (BᵀB ∘ AAᵀ); rounding may take a sum of zero below it.
    const squared = gramB.reduce((sum, value, i) => sum + value * gramA[i]!, 0);
    return {
      ...facts,
      normDelta: Math.abs(scale) * Math.sqrt(Math.max(0, squared)),
      effectiveRank: effectiveRank(singularValues(gramB, gramA, rank)),
    };
  });
  const ranks = new Map<number, number>();
  for (const { rank } of [...modules].sort((a, b) => a.rank - b.rank)) ranks.set(rank, (ranks.get(rank) ?? 0) + 1);
  return {
    parameters: modules.reduce((sum, module) => sum + module.parameters, 0),
    ranks,
    normA: together(modules.map((module) => module.normA)),
    normB: together(modules.map((module) => module.normB)),
    normDelta: together(modules.map((module) => module.normDelta)),
    modules,
  };
}

/** `rank` vectors of `length` numbers: element k of vector i is at i·vectorStep + k·step. */
interface Vectors {
  values: Float32Array;
  rank: number;
  length: number;
  vectorStep: number;
  step: number;
}

/** The inner products of the vectors, [rank, rank]. */
function gram({ values, rank, length, vectorStep, step }: Vectors): Float64Array {
  const out = new Float64Array(rank * rank);
  for (let i = 0; i < rank; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = 0; k < length; k++) sum += values[i * vectorStep + k * step]! * values[j * vectorStep + k * step]!;
      out[i * rank + j] = sum;
      out[j * rank + i] = sum;
    }
  }
  return out;
}

/** ‖B·A‖ a row at a time, where the Gram matrices would be larger than the factors. */
function productNorm(a: Vectors, b: Vectors): number {
  let squares = 0;
  const row = new Float64Array(a.length);
  for (let out = 0; out < b.length; out++) {
    row.fill(0);
    for (let r = 0; r < a.rank; r++) {
      const factor = b.values[r * b.vectorStep + out * b.step]!;
      for (let k = 0; k < a.length; k++) row[k]! += factor * a.values[r * a.vectorStep + k]!;
    }
    for (const value of row) squares += value * value;
  }
  return Math.sqrt(squares);
}

const normOf = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
const together = (norms: readonly number[]): number => Math.sqrt(norms.reduce((sum, norm) => sum + norm * norm, 0));
