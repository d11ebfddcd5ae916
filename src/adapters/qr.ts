// QR by Householder's reflections, with the signs that LAPACK's dgeqrf gives: the diagonal of R is −sign(x₀)·‖x‖.
import type { Factors } from "./svd.ts";
import { addTo, combined, dot, matrixRows } from "./vectors.ts";

/** Below the diagonal of a column nothing is left: v is empty. */
type Reflection = { v: Float64Array; tau: number };

/**
 * The first `count` columns of Q, in the reduced decomposition of a matrix of which `columnOf` gives those columns, of `rows` elements
 * each. I − tau·v·vᵀ acts from element k on.
 */
function firstColumns(columnOf: (k: number) => Float64Array, rows: number, count: number): Float64Array[] {
  const reflections: Reflection[] = [];
  const reflect = ({ v, tau }: Reflection, x: Float64Array): void => {
    const rest = x.subarray(rows - v.length);
    addTo(rest, -tau * dot(v, rest), v);
  };
  for (let k = 0; k < count; k++) {
    const x = columnOf(k);
    for (const reflection of reflections) reflect(reflection, x);
    const v = x.slice(k);
    const [head, tail] = [v[0]!, dot(v.subarray(1), v.subarray(1))];
    if (tail === 0) {
      reflections.push({ v: v.fill(0), tau: 0 });
      continue;
    }
    const diagonal = Math.sqrt(head * head + tail) * (head < 0 ? 1 : -1);
    const first = head - diagonal;
    for (let i = 1; i < v.length; i++) v[i]! /= first;
    v[0] = 1;
    reflections.push({ v, tau: (diagonal - head) / diagonal });
  }
  return Array.from({ length: count }, (_, k) => {
    const column = new Float64Array(rows);
    column[k] = 1;
    for (const reflection of [...reflections].reverse()) reflect(reflection, column);
    return column;
  });
}

/** OLoRA's factors of W [out, in]: B is the first `rank` columns of Q, and A the first rows of R. */
export function topFactors(weight: Float32Array, outFeatures: number, inFeatures: number, rank: number): Factors {
  const columnOf = (k: number) => Float64Array.from({ length: outFeatures }, (_, i) => weight[i * inFeatures + k]!);
  const columns = firstColumns(columnOf, outFeatures, rank);
  const rows = matrixRows(weight, outFeatures);
  const loraA = new Float32Array(rank * inFeatures);
  for (const [k, column] of columns.entries()) {
    // R = Qᵀ·W is triangular.
    loraA.set(combined(rows, column, inFeatures).subarray(k), k * inFeatures + k);
  }
  return {
    loraA,
    loraB: Float32Array.from({ length: outFeatures * rank }, (_, i) => columns[i % rank]![Math.floor(i / rank)]!),
    rank,
  };
}

/** Q of a square matrix of `size` rows, by rows. */
export function orthonormal(matrix: Float32Array, size: number): Float64Array {
  const columns = firstColumns((k) => Float64Array.from({ length: size }, (_, i) => matrix[i * size + k]!), size, size);
  return Float64Array.from({ length: size * size }, (_, i) => columns[i % size]![Math.floor(i / size)]!);
}
