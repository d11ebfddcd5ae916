// Singular values of a low-rank product, and its best approximation of a lower rank, by way of rank × rank matrices: the product is
// never formed. Effective rank: Roy and Vetterli (2007).
import { type Eigen, symmetricEigen } from "./eigen.ts";
import { addTo, combined, dot } from "./vectors.ts";

export interface ProductSpectrum {
  /** Singular values of B·A, largest first. Those below about 1e-8 of the largest are rounding and may be missing. */
  values: number[];
  /**
   * The product of its `count` largest alone (less if it has less), as factors of the same factors: row j of A is Σ right[j][r]·A[r],
   * a right singular vector; column j of B is Σ left[j][r]·B[·, r], a left one times its value.
   */
  truncated(count: number): { left: Float64Array[]; right: Float64Array[] };
}

/**
 * The spectrum of B·A from BᵀB and AAᵀ (both [rank, rank], row by row). With AAᵀ = L·Lᵀ, L of full rank, A is L·Q with orthonormal
 * rows Q, and the eigenvectors of Lᵀ·BᵀB·L are right singular vectors in terms of Q. `vectors: false` leaves out what `truncated` needs.
 */
export function productSpectrum(
  gramB: Float64Array,
  gramA: Float64Array,
  rank: number,
  { vectors = true }: { vectors?: boolean } = {},
): ProductSpectrum {
  const { columns, pivots } = cholesky(gramA, rank);
  const images = columns.map((column) =>
    Float64Array.from(column, (_, i) => dot(gramB.subarray(i * rank, (i + 1) * rank), column)),
  );
  const eigen = symmetricEigen(
    columns.map((column) => Float64Array.from(images, (image) => dot(column, image))),
    { vectors },
  );
  const values = eigen.values.filter((square) => square > 0).map(Math.sqrt);
  return { values, truncated: (count) => factorsOf(eigen, Math.min(count, values.length), { columns, pivots }, rank) };
}

/** With the eigenvectors V: B·L·V and Vᵀ·Q, where Q is L⁻¹·A by L's rows at the pivots, a triangle. */
function factorsOf(eigen: Eigen, count: number, { columns, pivots }: Cholesky, rank: number) {
  const vectors = eigen.vectors(count);
  const left = vectors.map((vector) => combined(columns, vector, rank));
  const right = vectors.map((vector) => {
    const row = new Float64Array(rank);
    const rest = vector.slice();
    for (let c = columns.length - 1; c >= 0; c--) {
      const value = rest[c]! / columns[c]![pivots[c]!]!;
      row[pivots[c]!] = value;
      for (let d = 0; d < c; d++) rest[d]! -= value * columns[d]![pivots[c]!]!;
    }
    return row;
  });
  return { left, right };
}

/** exp of the entropy of the singular values' shares: between 1 (one direction) and their number (all alike); 0 if all are 0. */
export function effectiveRank(values: readonly number[]): number {
  const sum = values.reduce((total, value) => total + value, 0);
  if (sum === 0) return 0;
  const shares = values.map((value) => value / sum).filter((share) => share > 0);
  return Math.exp(-shares.reduce((total, share) => total + share * Math.log(share), 0));
}

/** The least rank that holds this share of the energy, the sum of the squares of singular values (largest first); 0 if all are 0. */
export function rankAtEnergy(values: readonly number[], share: number): number {
  const largest = values[0] ?? 0;
  if (!(largest > 0)) return 0;
  const squares = values.map((value) => (value / largest) ** 2);
  // From the smallest: what is left out is compared, and small values are not lost in a large sum.
  const allowed = (1 - share) * squares.reduce((sum, square) => sum + square, 0);
  let [count, out] = [values.length, 0];
  while (count > 1 && out + squares[count - 1]! <= allowed) out += squares[--count]!;
  return count;
}

interface Cholesky {
  /** Columns of L, each [size]: as many as the matrix's numerical rank. */
  columns: Float64Array[];
  /** The row that each column begins in: those before it are done. */
  pivots: number[];
}

/** L with L·Lᵀ = `gram`. Rows are chosen by the largest diagonal left. */
function cholesky(gram: Float64Array, size: number): Cholesky {
  const columns: Float64Array[] = [];
  const pivots: number[] = [];
  const left = Float64Array.from({ length: size }, (_, i) => gram[i * size + i]!);
  const negligible = size * Number.EPSILON * Math.max(...left);
  const isDone = new Uint8Array(size);
  while (columns.length < size) {
    let pivot = 0;
    for (let i = 1; i < size; i++) if (left[i]! > left[pivot]!) pivot = i;
    if (!(left[pivot]! > negligible)) break;
    const root = Math.sqrt(left[pivot]!);
    const column = Float64Array.from({ length: size }, (_, i) => gram[i * size + pivot]!);
    for (const before of columns) addTo(column, -before[pivot]!, before);
    for (let i = 0; i < size; i++) {
      // In rows at earlier pivots only rounding is left.
      column[i] = isDone[i] ? 0 : column[i]! / root;
      left[i]! -= column[i]! ** 2;
    }
    left[pivot] = 0;
    isDone[pivot] = 1;
    columns.push(column);
    pivots.push(pivot);
  }
  return { columns, pivots };
}
