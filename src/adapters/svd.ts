// The best approximation of a low rank, of a product of factors or of a whole matrix: B = U·S and A = Vᵀ, as PEFT splits it.
import { transposed } from "../formats/stored.ts";
import { normal, purpose } from "../random.ts";
import { symmetricEigen } from "./eigen.ts";
import { productSpectrum } from "./spectrum.ts";
import { addTo, combined, dot, gram, matrixRows, products } from "./vectors.ts";

/** An update B·A: A is [rank, in], B is [out, rank]. */
export interface Factors {
  loraA: Float32Array;
  loraB: Float32Array;
  rank: number;
}

export interface Truncation {
  /** Singular values of the whole, largest first. */
  values: number[];
  /** The product of the `count` largest alone. One of no update has rank 1, and is zero. */
  truncated(count: number): Factors;
}

/** The truncations of B·A, never formed: exact to about 1e-8 of the largest singular value, which is float32's rounding. */
export function truncateProduct({ loraA, loraB, rank }: Factors): Truncation {
  const [inFeatures, outFeatures] = [loraA.length / rank, loraB.length / rank];
  const rowsOfA = matrixRows(loraA, rank);
  const columnsOfB = matrixRows(transposed(loraB, outFeatures, rank), rank);
  const spectrum = productSpectrum(gram(columnsOfB), gram(rowsOfA), rank);
  return {
    values: spectrum.values,
    truncated(count) {
      const { left, right } = spectrum.truncated(count);
      const of = (rows: readonly Float32Array[], factors: Float64Array[], length: number) =>
        factors.map((row) => combined(rows, row, length));
      return factorsOf(of(columnsOfB, left, outFeatures), of(rowsOfA, right, inFeatures), outFeatures, inFeatures);
    },
  };
}

/** Factors from B's columns and A's rows. */
function factorsOf(
  columns: readonly Float64Array[],
  rows: readonly Float64Array[],
  outFeatures: number,
  inFeatures: number,
): Factors {
  const rank = Math.max(1, rows.length);
  const [loraA, columnsOfB] = [new Float32Array(rank * inFeatures), new Float32Array(rank * outFeatures)];
  for (const [j, row] of rows.entries()) loraA.set(row, j * inFeatures);
  for (const [j, column] of columns.entries()) columnsOfB.set(column, j * outFeatures);
  return { loraA, loraB: transposed(columnsOfB, rank, outFeatures), rank };
}

/** Vectors that the basis begins with. It finds up to this many singular values that are equal. */
const BLOCK = 4;
/** What is left of an eigenpair of DᵀD, as a share of the largest eigenvalue, when it counts as found, unless another is given. */
const CONVERGED = 1e-14;

/**
 * The truncation of D [out, in] to `rank`: the largest eigenvectors of DDᵀ or DᵀD, whichever is smaller, in a Krylov space (block Lanczos,
 * every vector orthogonal to all). It grows until their residuals are rounding; where that takes the whole space, it is exact.
 */
export function truncateMatrix(
  delta: Float32Array,
  outFeatures: number,
  inFeatures: number,
  rank: number,
  converged = CONVERGED,
): Factors {
  const { byColumns, byRows } = sides(delta, outFeatures, inFeatures);
  const isWide = outFeatures < inFeatures;
  const size = Math.min(outFeatures, inFeatures);
  const count = Math.min(rank, size);
  const gramOf = (vectors: Float64Array[]) => (isWide ? byRows(byColumns(vectors)) : byColumns(byRows(vectors)));
  const largest = largestEigenvectors(gramOf, size, count, converged);
  if (!isWide) return factorsOf(byRows(largest), largest, outFeatures, inFeatures);
  // Dᵀ·u is a right singular vector times its value, which goes to B.
  const images = byColumns(largest);
  const values = images.map((image) => Math.sqrt(dot(image, image)));
  const unit = images.map((image, j) => image.map((value) => (values[j]! > 0 ? value / values[j]! : 0)));
  return factorsOf(
    largest.map((u, j) => u.map((value) => value * values[j]!)),
    unit,
    outFeatures,
    inFeatures,
  );
}

/** Dᵀ·u and D·v of several vectors, for D [out, in]. */
function sides(delta: Float32Array, outFeatures: number, inFeatures: number) {
  const rows = matrixRows(delta, outFeatures);
  return {
    byColumns: (vectors: Float64Array[]) => vectors.map((vector) => combined(rows, vector, inFeatures)),
    byRows: (vectors: Float64Array[]) => products(rows, vectors),
  };
}

/**
 * An approximation of D [out, in] to `rank`, in the space that D turns random vectors into, after so many steps of subspace iteration:
 * Halko et al. 2011, algorithm 4.4, as torch.svd_lowrank has it without vectors beside those of the rank.
 */
export function approximateMatrix(
  delta: Float32Array,
  outFeatures: number,
  inFeatures: number,
  rank: number,
  { iterations, seed }: { iterations: number; seed: number },
): Factors {
  const { byColumns, byRows } = sides(delta, outFeatures, inFeatures);
  const span = (vectors: Float64Array[]): Float64Array[] => {
    const basis: Float64Array[] = [];
    for (const vector of vectors) basis.push(beside(vector, basis) ?? new Float64Array(vector.length));
    return basis;
  };
  const drawn = Array.from({ length: rank }, (_, i) => Float64Array.from(normal(seed, [purpose.svd, i, 1], inFeatures)));
  let basis = span(byRows(drawn));
  for (let step = 0; step < iterations; step++) basis = span(byRows(span(byColumns(basis))));
  // U·S·Vᵀ of the projection Q·(Qᵀ·D), from which the truncation reads its singular vectors.
  const projected = factorsOf(basis, byColumns(basis), outFeatures, inFeatures);
  return truncateProduct(projected).truncated(rank);
}

/** The eigenvectors of the `count` largest eigenvalues of a symmetric, positive operator on vectors of `size` numbers. */
function largestEigenvectors(
  apply: (vectors: Float64Array[]) => Float64Array[],
  size: number,
  count: number,
  converged: number,
): Float64Array[] {
  const basis: Float64Array[] = [];
  let draws = 0;
  /** Adds the direction of what a vector has beside the basis, or of what a random one has where that is nothing. */
  const extend = (vector: Float64Array): void => {
    if (basis.length === size) return;
    const direction = beside(vector, basis);
    if (direction) basis.push(direction);
    else extend(random());
  };
  const random = () => Float64Array.from(normal(0, [purpose.svd, draws++], size));
  for (let i = 0; i < BLOCK; i++) extend(random());
  /** Row j: the operator's image of basis vector j, along each vector of the basis. */
  const projected: Float64Array[] = [];
  for (let next = Math.min(size, 2 * count + 2 * BLOCK); ; next = Math.min(size, Math.ceil(1.4 * next))) {
    while (projected.length < next) {
      for (const image of apply(basis.slice(projected.length, Math.min(projected.length + BLOCK, next)))) {
        extend(image);
        projected.push(Float64Array.from(basis, (vector) => dot(image, vector)));
      }
    }
    const { values, vectors } = symmetricEigen(
      projected.map((row, i) => Float64Array.from(projected, (other, j) => (j <= i ? row[j]! : other[i]!))),
      { vectors: true },
    );
    const found = vectors(count);
    const isDone = found.every((vector) => residual(vector, projected, basis.length) <= converged * values[0]!);
    const known = basis.slice(0, projected.length);
    if (projected.length === size || isDone) return found.map((vector) => combined(known, vector, size));
  }
}

/** What the image of a vector has along the vectors of the basis whose own images are not yet known. */
function residual(vector: Float64Array, projected: readonly Float64Array[], length: number): number {
  const rest = new Float64Array(length - projected.length);
  for (const [j, row] of projected.entries()) {
    for (let i = 0; projected.length + i < row.length; i++) rest[i]! += vector[j]! * row[projected.length + i]!;
  }
  return Math.sqrt(dot(rest, rest));
}

/** The unit vector along what a vector has beside an orthonormal basis; null if that is rounding. */
function beside(vector: Float64Array, basis: readonly Float64Array[]): Float64Array | null {
  let rest = vector;
  // Twice: the first time leaves rounding, which counts when little else is left.
  for (let pass = 0; pass < 2; pass++) {
    const before = Math.sqrt(dot(rest, rest));
    rest = rest.map((value) => value / before);
    for (const other of basis) addTo(rest, -dot(rest, other), other);
    if (!(dot(rest, rest) > 1e-20)) return null;
  }
  const length = Math.sqrt(dot(rest, rest));
  return rest.map((value) => value / length);
}
