// Sums over vectors: inner products, and linear combinations of the rows of a factor, in float64.

/** A row of a factor. */
export type Vector = Float32Array | Float64Array;

export function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** Adds factor · from to `to`. */
export function addTo(to: Float64Array, factor: number, from: Vector): void {
  for (let i = 0; i < to.length; i++) to[i]! += factor * from[i]!;
}

/** The rows of a matrix of `count` rows, not copied. */
export const matrixRows = <V extends Vector>(values: V, count: number): V[] => {
  const length = values.length / count;
  return Array.from({ length: count }, (_, i) => values.subarray(i * length, (i + 1) * length) as V);
};

/** The inner products of rows, [count, count]. Two by two: each number that is read serves two products. */
export function gram(rows: readonly Vector[]): Float64Array {
  const count = rows.length;
  const out = new Float64Array(count * count);
  const set = (i: number, j: number, value: number) => {
    out[i * count + j] = value;
    out[j * count + i] = value;
  };
  for (let i = 0; i < count; i += 2) {
    const [a, b] = [rows[i]!, rows[i + 1] ?? rows[i]!];
    for (let j = 0; j <= i; j += 2) {
      const [c, d] = [rows[j]!, rows[j + 1] ?? rows[j]!];
      let [ac, ad, bc, bd] = [0, 0, 0, 0];
      for (let k = 0; k < a.length; k++) {
        const [x, y, z, w] = [a[k]!, b[k]!, c[k]!, d[k]!];
        ac += x * z;
        ad += x * w;
        bc += y * z;
        bd += y * w;
      }
      set(i, j, ac);
      if (j + 1 < count) set(i, j + 1, ad);
      if (i + 1 < count) set(i + 1, j, bc);
      if (i + 1 < count && j + 1 < count) set(i + 1, j + 1, bd);
    }
  }
  return out;
}

/** The inner products of each row with each vector, [vectors][rows]. Four vectors at a time: each number of a row serves four. */
export function products(rows: readonly Vector[], vectors: readonly Float64Array[]): Float64Array[] {
  const out = vectors.map(() => new Float64Array(rows.length));
  const whole = vectors.length - (vectors.length % 4);
  for (let k = 0; k < whole; k += 4) {
    const [a, b, c, d] = [vectors[k]!, vectors[k + 1]!, vectors[k + 2]!, vectors[k + 3]!];
    for (let r = 0; r < rows.length; r++) {
      const row = rows[r]!;
      let [sa, sb, sc, sd] = [0, 0, 0, 0];
      for (let i = 0; i < row.length; i++) {
        const value = row[i]!;
        sa += value * a[i]!;
        sb += value * b[i]!;
        sc += value * c[i]!;
        sd += value * d[i]!;
      }
      out[k]![r] = sa;
      out[k + 1]![r] = sb;
      out[k + 2]![r] = sc;
      out[k + 3]![r] = sd;
    }
  }
  for (let k = whole; k < vectors.length; k++) for (let r = 0; r < rows.length; r++) out[k]![r] = dot(rows[r]!, vectors[k]!);
  return out;
}

/** Σ factors[r] · rows[r], of rows of `length` numbers; four rows at a time. */
export function combined(rows: readonly Vector[], factors: ArrayLike<number>, length: number): Float64Array {
  const out = new Float64Array(length);
  const whole = rows.length - (rows.length % 4);
  for (let r = 0; r < whole; r += 4) {
    const [a, b, c, d] = [rows[r]!, rows[r + 1]!, rows[r + 2]!, rows[r + 3]!];
    const [fa, fb, fc, fd] = [factors[r]!, factors[r + 1]!, factors[r + 2]!, factors[r + 3]!];
    for (let i = 0; i < length; i++) out[i]! += fa * a[i]! + fb * b[i]! + fc * c[i]! + fd * d[i]!;
  }
  for (let r = whole; r < rows.length; r++) addTo(out, factors[r]!, rows[r]!);
  return out;
}
