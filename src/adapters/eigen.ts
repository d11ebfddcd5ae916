// Eigenvalues and eigenvectors of a symmetric matrix: Householder's tridiagonal form, then implicit QL steps (LAPACK's dsytrd, dsteqr).
import { addTo, dot } from "./vectors.ts";

/** Most QL steps for one eigenvalue; two or three are usual, and only what is not finite needs more. */
const MAX_STEPS = 60;

/** Squares below this, of a matrix whose largest element is 1, are too few bits to reflect by. */
const NEGLIGIBLE = 1e-280;

export interface Eigen {
  /** Eigenvalues, largest first. */
  values: number[];
  /** The unit eigenvectors of the first `count` of them. */
  vectors(count: number): Float64Array[];
}

/** Of a symmetric matrix by its rows, which are overwritten. Errors are of the size of rounding in its largest eigenvalue. */
export function symmetricEigen(rows: readonly Float64Array[], { vectors }: { vectors: boolean }): Eigen {
  // Scaled to 1: neither squares of the largest numbers nor of the smallest leave float64's range.
  const size = rows.reduce((most, row) => row.reduce((max, value) => Math.max(max, Math.abs(value)), most), 0) || 1;
  for (const row of rows) for (let i = 0; i < row.length; i++) row[i]! /= size;
  const { diagonal, beside, reflections } = tridiagonal(rows);
  const turned = vectors ? rows.map((_, i) => Float64Array.from(rows, (_, j) => Number(i === j))) : null;
  implicitQl(diagonal, beside, turned);
  const order = [...diagonal.keys()].sort((a, b) => diagonal[b]! - diagonal[a]!);
  return {
    values: order.map((i) => diagonal[i]! * size),
    vectors: (count) =>
      order.slice(0, count).map((i) => {
        const vector = turned![i]!.slice();
        for (const { v, half } of [...reflections].reverse()) {
          const rest = vector.subarray(vector.length - v.length);
          addTo(rest, -dot(v, rest) / half, v);
        }
        return vector;
      }),
  };
}

/** The tridiagonal matrix with the same eigenvalues: its diagonal, the elements beside it, and the reflections that made it. */
function tridiagonal(rows: readonly Float64Array[]) {
  const size = rows.length;
  const beside = new Float64Array(size);
  const reflections: { v: Float64Array; half: number }[] = [];
  for (let k = 0; k < size - 1; k++) {
    // The reflection I − 2·v·vᵀ/(vᵀv) turns the column below the diagonal into one number.
    const v = rows[k]!.slice(k + 1);
    const length = Math.sqrt(dot(v, v)) * (v[0]! > 0 ? -1 : 1);
    beside[k] = length;
    v[0]! -= length;
    const half = dot(v, v) / 2;
    if (half < NEGLIGIBLE) continue;
    reflections.push({ v, half });
    const rest = rows.slice(k + 1).map((row) => row.subarray(k + 1));
    const w = Float64Array.from(rest, (row) => dot(row, v) / half);
    addTo(w, -dot(v, w) / (2 * half), v);
    for (const [i, row] of rest.entries()) {
      const [vi, wi] = [v[i]!, w[i]!];
      for (let j = 0; j < row.length; j++) row[j]! -= vi * w[j]! + wi * v[j]!;
    }
  }
  return { diagonal: Float64Array.from(rows, (row, i) => row[i]!), beside, reflections };
}

/** Makes `diagonal` the eigenvalues of a tridiagonal matrix, and `vectors`, the identity's rows, its eigenvectors. */
function implicitQl(diagonal: Float64Array, beside: Float64Array, vectors: readonly Float64Array[] | null): void {
  const last = diagonal.length - 1;
  const isSmall = (i: number) => Math.abs(beside[i]!) <= Number.EPSILON * (Math.abs(diagonal[i]!) + Math.abs(diagonal[i + 1]!));
  for (let first = 0; first <= last; first++) {
    for (let step = 0; step < MAX_STEPS; step++) {
      let end = first;
      while (end < last && !isSmall(end)) end++;
      if (end === first) break;
      const ratio = (diagonal[first + 1]! - diagonal[first]!) / (2 * beside[first]!);
      const shift = beside[first]! / (ratio + Math.hypot(ratio, 1) * (ratio < 0 ? -1 : 1));
      let [sine, cosine, below] = [1, 1, 0];
      let g = diagonal[end]! - diagonal[first]! + shift;
      let i = end - 1;
      for (; i >= first; i--) {
        const [f, b] = [sine * beside[i]!, cosine * beside[i]!];
        const length = Math.hypot(f, g);
        beside[i + 1] = length;
        if (length === 0) break;
        [sine, cosine] = [f / length, g / length];
        g = diagonal[i + 1]! - below;
        const r = (diagonal[i]! - g) * sine + 2 * cosine * b;
        below = sine * r;
        diagonal[i + 1] = g + below;
        g = cosine * r - b;
        if (vectors) rotate(vectors[i]!, vectors[i + 1]!, cosine, sine);
      }
      if (i >= first) diagonal[i + 1]! -= below;
      else {
        diagonal[first]! -= below;
        beside[first] = g;
      }
      beside[end] = 0;
    }
  }
}

function rotate(a: Float64Array, b: Float64Array, cosine: number, sine: number): void {
  for (let k = 0; k < a.length; k++) {
    const [x, y] = [a[k]!, b[k]!];
    b[k] = sine * x + cosine * y;
    a[k] = cosine * x - sine * y;
  }
}
