// Singular values of a low-rank product and how many of them matter, by way of rank × rank matrices. Eigenvalues: Householder's
// tridiagonal form, then bisection by Sturm counts (LAPACK's dsytrd and dstebz). Effective rank: Roy and Vetterli (2007).

/**
 * Singular values of B·A, largest first, from BᵀB and AAᵀ (both [rank, rank], row by row). With AAᵀ = L·Lᵀ their squares are
 * the eigenvalues of Lᵀ·BᵀB·L. Values below about 1e-8 of the largest are rounding and may be missing.
 */
export function singularValues(gramB: Float64Array, gramA: Float64Array, rank: number): number[] {
  const columns = cholesky(gramA, rank);
  const images = columns.map((column) =>
    Float64Array.from(column, (_, i) => dot(gramB.subarray(i * rank, (i + 1) * rank), column)),
  );
  const squares = positiveEigenvalues(columns.map((column) => Float64Array.from(images, (image) => dot(column, image))));
  return squares.reverse().map(Math.sqrt);
}

/** exp of the entropy of the singular values' shares: between 1 (one direction) and their number (all alike); 0 if all are 0. */
export function effectiveRank(values: readonly number[]): number {
  const sum = values.reduce((total, value) => total + value, 0);
  if (sum === 0) return 0;
  const shares = values.map((value) => value / sum).filter((share) => share > 0);
  return Math.exp(-shares.reduce((total, share) => total + share * Math.log(share), 0));
}

/** Columns of L, each [size], with L·Lᵀ = `gram`; as many as its numerical rank. Rows are chosen by the largest diagonal left. */
function cholesky(gram: Float64Array, size: number): Float64Array[] {
  const columns: Float64Array[] = [];
  const left = Float64Array.from({ length: size }, (_, i) => gram[i * size + i]!);
  const negligible = size * Number.EPSILON * Math.max(...left);
  while (columns.length < size) {
    let pivot = 0;
    for (let i = 1; i < size; i++) if (left[i]! > left[pivot]!) pivot = i;
    if (!(left[pivot]! > negligible)) break;
    const root = Math.sqrt(left[pivot]!);
    const column = Float64Array.from({ length: size }, (_, i) => gram[i * size + pivot]!);
    for (const before of columns) {
      const factor = before[pivot]!;
      for (let i = 0; i < size; i++) column[i]! -= before[i]! * factor;
    }
    for (let i = 0; i < size; i++) {
      column[i]! /= root;
      left[i]! -= column[i]! ** 2;
    }
    left[pivot] = 0;
    columns.push(column);
  }
  return columns;
}

/** Positive eigenvalues of a symmetric matrix, least first. Its rows are overwritten. */
function positiveEigenvalues(rows: readonly Float64Array[]): number[] {
  const { diagonal, beside } = tridiagonal(rows);
  /** No eigenvalue is larger (Gershgorin). */
  const bound = diagonal.reduce((most, d, i) => Math.max(most, d + Math.abs(beside[i]!) + Math.abs(beside[i - 1] ?? 0)), 0);
  /** How many eigenvalues are below `x`: as many as there are negative pivots of the matrix less x·I. */
  const below = (x: number): number => {
    let count = 0;
    let pivot = 1;
    for (let i = 0; i < diagonal.length; i++) {
      pivot = diagonal[i]! - x - (i > 0 ? (beside[i - 1]! / pivot) * beside[i - 1]! : 0);
      if (pivot === 0) pivot = Number.EPSILON * bound;
      if (pivot < 0) count++;
    }
    return count;
  };
  const found: number[] = [];
  const search = (low: number, high: number, belowLow: number, belowHigh: number): void => {
    if (belowLow >= belowHigh) return;
    const middle = (low + high) / 2;
    if (!(low < middle && middle < high) || high - low <= Number.EPSILON * bound) {
      for (let i = belowLow; i < belowHigh; i++) found.push(middle);
      return;
    }
    const count = below(middle);
    search(low, middle, belowLow, count);
    search(middle, high, count, belowHigh);
  };
  search(0, bound, below(0), diagonal.length);
  return found;
}

/** The tridiagonal matrix with the same eigenvalues: its diagonal, and the elements beside it. */
function tridiagonal(rows: readonly Float64Array[]): { diagonal: number[]; beside: number[] } {
  const size = rows.length;
  const beside = new Array<number>(size).fill(0);
  for (let k = 0; k < size - 1; k++) {
    // The reflection I − 2·v·vᵀ/(vᵀv) turns the column below the diagonal into one number.
    const v = rows[k]!.slice(k + 1);
    const length = Math.sqrt(dot(v, v)) * (v[0]! > 0 ? -1 : 1);
    beside[k] = length;
    v[0]! -= length;
    const half = dot(v, v) / 2;
    if (half === 0) continue;
    const rest = rows.slice(k + 1).map((row) => row.subarray(k + 1));
    const w = Float64Array.from(rest, (row) => dot(row, v) / half);
    const share = dot(v, w) / (2 * half);
    for (let i = 0; i < w.length; i++) w[i]! -= share * v[i]!;
    for (const [i, row] of rest.entries()) {
      const [vi, wi] = [v[i]!, w[i]!];
      for (let j = 0; j < row.length; j++) row[j]! -= vi * w[j]! + wi * v[j]!;
    }
  }
  return { diagonal: rows.map((row, i) => row[i]!), beside };
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
