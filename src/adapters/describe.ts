// What an adapter is: counts, ranks, how large its update is and in how many directions it goes, without forming it.

import { transposed } from "../formats/stored.ts";
import { lengthOfTheta, storedLayout, trainedBy } from "./layout.ts";
import type { AdapterModule } from "./match.ts";
import type { Adapter } from "./peft-files.ts";
import { updatesOf } from "./places.ts";
import { effectiveRank, productSpectrum, rankAtEnergy } from "./spectrum.ts";
import { gram, matrixRows } from "./vectors.ts";

/** Up to this rank an update's directions are counted; beyond it that takes longer than reading the file. */
export const MAX_SPECTRUM_RANK = 1024;

export interface ModuleDescription extends AdapterModule {
  parameters: number;
  /** Frobenius norms of A, of B, and of the update s·B·A that the module's weight gets. */
  normA: number;
  normB: number;
  normDelta: number;
  /** Frobenius norms of what the method trains beside A and B, by name; absent if that is nothing. */
  norms?: Record<string, number>;
  /** How many directions the update has, of experts all of them together, 0 to rank: exp of the entropy of its singular values. null above `MAX_SPECTRUM_RANK`. */
  effectiveRank: number | null;
  /** Absent above `MAX_SPECTRUM_RANK`. */
  spectrum?: UpdateSpectrum;
}

export interface UpdateSpectrum {
  /** Singular values of the update s·B·A, largest first. */
  values: number[];
  /** The least ranks that hold 90 and 99 % of its energy, the sum of their squares. */
  rank90: number;
  rank99: number;
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
    const { path, rank, scale, outFeatures } = module;
    const tensors = adapter.tensors.get(path)!;
    const { loraA, loraB } = tensors;
    const updates = updatesOf(module, tensors).map((own) => {
      return { rowsOfA: own.loraA, columnsOfB: transposed(own.loraB, outFeatures, rank) };
    });
    const others = Object.entries(tensors).filter(([name]) => name !== "loraA" && name !== "loraB");
    const facts = {
      ...module,
      parameters: Object.values(tensors).reduce((sum, values) => sum + values.length, 0),
      normA: normOf(loraA),
      normB: normOf(loraB),
      ...(others.length > 0 && { norms: Object.fromEntries(others.map(([name, values]) => [name, normOf(values)])) }),
    };
    if (rank > MAX_SPECTRUM_RANK) {
      const norms = updates.map(({ rowsOfA, columnsOfB }) => productNorm(rowsOfA, columnsOfB, rank));
      return { ...facts, normDelta: Math.abs(scale) * normOf(norms), effectiveRank: null };
    }
    let squared = 0;
    const values = updates
      .flatMap(({ rowsOfA, columnsOfB }) => {
        const [gramA, gramB] = [gram(matrixRows(rowsOfA, rank)), gram(matrixRows(columnsOfB, rank))];
        // ‖s·B·A‖² = s²·trace(AᵀBᵀBA) = s²·Σ (BᵀB ∘ AAᵀ); rounding may take a sum of zero below it.
        squared += gramB.reduce((sum, value, i) => sum + value * gramA[i]!, 0);
        return productSpectrum(gramB, gramA, rank, { vectors: false }).values;
      })
      .sort((a, b) => b - a);
    return {
      ...facts,
      normDelta: Math.abs(scale) * Math.sqrt(Math.max(0, squared)),
      effectiveRank: effectiveRank(values),
      spectrum: {
        values: values.map((value) => Math.abs(scale) * value),
        rank90: rankAtEnergy(values, 0.9),
        rank99: rankAtEnergy(values, 0.99),
      },
    };
  });
  const ranks = new Map<number, number>();
  for (const { rank } of [...modules].sort((a, b) => a.rank - b.rank)) ranks.set(rank, (ranks.get(rank) ?? 0) + 1);
  return {
    parameters: lengthOfTheta(storedLayout(trainedBy(adapter))),
    ranks,
    normA: normOf(modules.map((module) => module.normA)),
    normB: normOf(modules.map((module) => module.normB)),
    normDelta: normOf(modules.map((module) => module.normDelta)),
    modules,
  };
}

/** ‖B·A‖ of A [rank, in] and Bᵀ [rank, out], a row at a time: the Gram matrices would be larger than the factors. */
function productNorm(loraA: Float32Array, columnsOfB: Float32Array, rank: number): number {
  const [inFeatures, outFeatures] = [loraA.length / rank, columnsOfB.length / rank];
  const row = new Float64Array(inFeatures);
  let squares = 0;
  for (let out = 0; out < outFeatures; out++) {
    row.fill(0);
    for (let r = 0; r < rank; r++) {
      const factor = columnsOfB[r * outFeatures + out]!;
      for (let k = 0; k < inFeatures; k++) row[k]! += factor * loraA[r * inFeatures + k]!;
    }
    for (const value of row) squares += value * value;
  }
  return Math.sqrt(squares);
}

function normOf(values: ArrayLike<number>): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += values[i]! * values[i]!;
  return Math.sqrt(squares);
}
