// Singular values of a low-rank product and how many of them matter, by way of r × r matrices: pivoted Cholesky factors of the
// Gram matrices, then one-sided Jacobi rotations (Hestenes 1958). Effective rank follows Roy and Vetterli (2007).

/** A cosine between two columns below this counts as a right angle. */
const ORTHOGONAL = 1e-12;
/** Sweeps until all columns are orthogonal; six to ten are usual. */
const MAX_SWEEPS = 40;

/**
 * Singular values of B·A, largest first, from BᵀB and AAᵀ (both [rank, rank], row by row). With AAᵀ = L·Lᵀ and BᵀB = M·Mᵀ
 * they are those of Mᵀ·L, since B and A differ from Mᵀ and Lᵀ by orthonormal columns and rows. Values below about 1e-8 of the
 * largest are rounding and may be missing.
 */
export function singularValues(gramB: Float64Array, gramA: Float64Array, rank: number): number[] {
  const [left, right] = [cholesky(gramB, rank), cholesky(gramA, rank)];
  // Column j of Mᵀ·L, [left.length].
  const columns = right.map((column) => Float64Array.from(left, (other) => dot(other, column)));
  orthogonalise(columns);
  return columns.map((column) => Math.sqrt(dot(column, column))).sort((a, b) => b - a);
}

/** exp of the entropy of the singular values' shares: between 1 (one direction) and their number (all alike); 0 if all are 0. */
export function effectiveRank(values: readonly number[]): number {
  const sum = values.reduce((total, value) => total + value, 0);
  if (sum === 0) return 0;
  const shares = values.map((value) => value / sum).filter((share) => share > 0);
  return Math.exp(-shares.reduce((total, share) => total + share * Math.log(share), 0));
}

/** Columns of L, each [size], with L·Lᵀ = `gram`; as many as its numerical rank. Rows are taken by the largest diagonal left. */
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

/** Rotates pairs of columns until every two are orthogonal; their lengths are then the singular values. */
function orthogonalise(columns: readonly Float64Array[]): void {
  for (let sweep = 0, turned = true; turned && sweep < MAX_SWEEPS; sweep++) {
    turned = false;
    for (let i = 0; i < columns.length; i++) {
      for (let j = i + 1; j < columns.length; j++) turned = rotate(columns[i]!, columns[j]!) || turned;
    }
  }
}

/** Makes two columns orthogonal; false if they were. */
function rotate(a: Float64Array, b: Float64Array): boolean {
  const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)];
  if (Math.abs(ab) <= ORTHOGONAL * Math.sqrt(aa * bb)) return false;
  const zeta = (bb - aa) / (2 * ab);
  const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
  const cosine = 1 / Math.hypot(1, tangent);
  const sine = cosine * tangent;
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i]!, b[i]!];
    a[i] = cosine * x - sine * y;
    b[i] = sine * x + cosine * y;
  }
  return true;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
