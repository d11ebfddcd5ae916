// What an adapter is: counts, ranks, and how large its update is, without forming it.
import type { Adapter } from "./adapter.ts";
import type { AdapterModule } from "./match.ts";

export interface ModuleDescription extends AdapterModule {
  parameters: number;
  /** Frobenius norms of A, of B, and of the update s·B·A that the module's weight gets. */
  normA: number;
  normB: number;
  normDelta: number;
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
    const gramA = gram(loraA, rank, inFeatures, inFeatures, 1);
    const gramB = gram(loraB, rank, outFeatures, 1, rank);
    // ‖s·B·A‖² = s²·trace(AᵀBᵀBA) = s²·Σ (BᵀB ∘ AAᵀ); rounding may take a sum of zero below it.
    const squared = gramB.reduce((sum, value, i) => sum + value * gramA[i]!, 0);
    return {
      ...module,
      parameters: loraA.length + loraB.length,
      normA: Math.sqrt(traceOf(gramA, rank)),
      normB: Math.sqrt(traceOf(gramB, rank)),
      normDelta: Math.abs(scale) * Math.sqrt(Math.max(0, squared)),
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

/** The inner products of `rank` vectors of `length` numbers, [rank, rank]: element k of vector i is at i·vectorStep + k·step. */
function gram(values: Float32Array, rank: number, length: number, vectorStep: number, step: number): Float64Array {
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

const traceOf = (matrix: Float64Array, size: number): number => {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += matrix[i * size + i]!;
  return sum;
};

const together = (norms: readonly number[]): number => Math.sqrt(norms.reduce((sum, norm) => sum + norm * norm, 0));
