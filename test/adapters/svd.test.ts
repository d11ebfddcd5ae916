// Truncations against a float64 SVD of the whole product (Jacobi's, which the code under test does not use).
import assert from "node:assert/strict";
import { test } from "node:test";
import { symmetricEigen } from "../../src/adapters/eigen.ts";
import { rankAtEnergy } from "../../src/adapters/spectrum.ts";
import { type Factors, truncateMatrix, truncateProduct } from "../../src/adapters/svd.ts";
import { gram, matrixRows } from "../../src/adapters/vectors.ts";
import { normal, purpose } from "../../src/random.ts";
import { near } from "../helpers/assert.ts";
import { slow } from "../helpers/slow.ts";

/** B·A in float64, as rows. */
function product({ loraA, loraB, rank }: Factors): Float64Array[] {
  const rows = matrixRows(loraA, rank);
  return matrixRows(loraB, loraB.length / rank).map((row) =>
    Float64Array.from(rows[0]!, (_, column) => row.reduce((sum, value, r) => sum + value * rows[r]![column]!, 0)),
  );
}

const distance = (a: readonly Float64Array[], b: readonly Float64Array[]) =>
  Math.hypot(...a.map((row, i) => Math.hypot(...row.map((value, j) => value - b[i]![j]!))));

/** Singular values and the truncation to a rank, by rotations of the rows until they are orthogonal (one-sided Jacobi). */
function jacobi(matrix: readonly Float64Array[]) {
  const rows = matrix.map((row) => row.slice());
  const turned = rows.map((_, i) => Float64Array.from(rows, (_, j) => Number(i === j)));
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  let isDone = false;
  for (let sweep = 0; sweep < 30 && !isDone; sweep++) {
    isDone = true;
    for (let i = 0; i < rows.length; i++) {
      for (let j = 0; j < i; j++) {
        const [a, b, c] = [dot(rows[i]!, rows[i]!), dot(rows[j]!, rows[j]!), dot(rows[i]!, rows[j]!)];
        if (Math.abs(c) <= 1e-17 * Math.sqrt(a * b)) continue;
        isDone = false;
        const zeta = (b - a) / (2 * c);
        const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cosine = 1 / Math.hypot(1, tangent);
        for (const set of [rows, turned]) {
          const [x, y] = [set[i]!.slice(), set[j]!.slice()];
          set[i] = x.map((value, k) => cosine * (value - tangent * y[k]!));
          set[j] = y.map((value, k) => cosine * (value + tangent * x[k]!));
        }
      }
    }
  }
  const values = rows.map((row) => Math.hypot(...row));
  const order = [...values.keys()].sort((a, b) => values[b]! - values[a]!);
  return {
    values: order.map((i) => values[i]!),
    truncated: (rank: number) => {
      const kept = order.slice(0, rank);
      return matrix.map((row, at) =>
        Float64Array.from(row, (_, column) => kept.reduce((sum, i) => sum + turned[i]![at]! * rows[i]![column]!, 0)),
      );
    },
  };
}

/** Factors of which column r of B is `decay`ʳ in size. */
const factors = (outFeatures: number, inFeatures: number, rank: number, decay: number): Factors => ({
  loraA: normal(1, [purpose.init], rank * inFeatures),
  loraB: normal(2, [purpose.init], outFeatures * rank).map((value, i) => value * decay ** (i % rank)),
  rank,
});

test("a product truncated from its factors is that of a float64 SVD of the whole, to 1e-6", slow, () => {
  for (const [outFeatures, inFeatures, rank, decay] of [
    [40, 56, 8, 0.8],
    [56, 40, 8, 0.3],
    [24, 20, 20, 0.7],
    [9, 30, 16, 0.9], // of a higher rank than the weight
    [30, 30, 1, 1],
  ] as const) {
    const given = factors(outFeatures, inFeatures, rank, decay);
    const whole = product(given);
    const { values, truncated } = truncateProduct(given);
    const wanted = jacobi(whole);
    for (const count of [1, 2, 5, 8].filter((each) => each <= rank)) {
      const largest = wanted.values[0]!;
      near(values.slice(0, count), wanted.values.slice(0, count), { atol: 1e-7 * largest }, "singular values");
      const got = truncated(count);
      assert.equal(got.rank, count);
      assert.ok(
        distance(product(got), wanted.truncated(count)) < 1e-6 * largest,
        `${outFeatures}x${inFeatures}, ${count} of ${rank}`,
      );
      near(
        gram(matrixRows(got.loraA, count)),
        gram(
          matrixRows(
            Float32Array.from({ length: count ** 2 }, (_, i) => Number(i % (count + 1) === 0)),
            count,
          ),
        ),
        1e-5,
        "rows of A",
      );
    }
  }
});

test("directions that repeat are one, and an update of zeros has rank 1", () => {
  const { loraA, loraB } = factors(12, 10, 2, 0.5);
  const twice: Factors = {
    loraA: Float32Array.from([...loraA, ...loraA, ...new Float32Array(10)]),
    loraB: Float32Array.from({ length: 60 }, (_, i) => (i % 5 === 4 ? 7 : loraB[Math.floor(i / 5) * 2 + ((i % 5) % 2)]!)),
    rank: 5,
  };
  const got = truncateProduct(twice).truncated(5);
  assert.equal(got.rank, 2);
  assert.ok(distance(product(got), product(twice)) < 1e-6);
  const nothing = truncateProduct({ loraA, loraB: new Float32Array(24), rank: 2 });
  assert.deepEqual([nothing.values, nothing.truncated(2).rank, nothing.truncated(2).loraB], [[], 1, new Float32Array(12)]);
});

test("a whole matrix is truncated as a float64 SVD truncates it: wide, tall, sparse, of a low rank", slow, () => {
  const sparse = normal(5, [purpose.init], 50 * 30).map((value) => (Math.abs(value) > 1 ? value : 0));
  const low = Float32Array.from(product(factors(50, 30, 6, 0.5)).flatMap((row) => [...row]));
  const steep = normal(6, [purpose.init], 50 * 30).map((value, i) => value * 0.8 ** Math.floor(i / 30));
  for (const [name, delta] of Object.entries({ sparse, low, steep })) {
    for (const [outFeatures, inFeatures] of [
      [50, 30],
      [30, 50],
    ] as const) {
      const rows = matrixRows(delta, outFeatures).map((row) => Float64Array.from(row));
      const wanted = jacobi(rows);
      for (const rank of [1, 4, 9]) {
        const got = truncateMatrix(delta, outFeatures, inFeatures, rank);
        const off = distance(product(got), wanted.truncated(rank)) / wanted.values[0]!;
        assert.ok(got.rank === rank && off < 1e-6, `${name} ${outFeatures}x${inFeatures}, rank ${rank}: ${off}`);
      }
    }
  }
});

test("a large matrix whose singular values fall is truncated without the whole space", () => {
  const [outFeatures, inFeatures] = [300, 500];
  const given = factors(outFeatures, inFeatures, 60, 0.8);
  const delta = Float32Array.from(product(given).flatMap((row) => [...row]));
  const [got, wanted] = [truncateMatrix(delta, outFeatures, inFeatures, 8), truncateProduct(given)];
  assert.ok(distance(product(got), product(wanted.truncated(8))) < 1e-6 * wanted.values[0]!);
});

test("equal singular values are all found", () => {
  const size = 64;
  const delta = Float32Array.from({ length: size * size }, (_, i) => (i % (size + 1) === 0 ? (i < 4 * size ? 2 : 1) : 0));
  near(
    product(truncateMatrix(delta, size, size, 4)).map((row, i) => row[i]!),
    Float64Array.from({ length: size }, (_, i) => (i < 4 ? 2 : 0)),
    1e-6,
  );
});

test("eigenvectors are orthonormal, and turn the matrix into its eigenvalues", () => {
  const size = 33;
  const rows = matrixRows(Float64Array.from(gram(matrixRows(normal(3, [purpose.init], size * 20), size))), size);
  const { values, vectors } = symmetricEigen(
    rows.map((row) => row.slice()),
    { vectors: true },
  );
  const found = vectors(size);
  near(
    gram(found),
    Float64Array.from({ length: size ** 2 }, (_, i) => Number(i % (size + 1) === 0)),
    1e-13,
  );
  for (const [j, vector] of found.entries()) {
    const image = rows.map((row) => row.reduce((sum, value, k) => sum + value * vector[k]!, 0));
    near(
      image,
      vector.map((value) => value * values[j]!),
      1e-13 * values[0]!,
    );
  }
});

test("the rank at a share of the energy is the least that holds it", () => {
  const values = [3, 2, 1, 1e-9];
  const held = (share: number) => rankAtEnergy(values, share);
  assert.deepEqual([held(0.5), held(0.64), held(0.65), held(0.92), held(0.99), held(1)], [1, 1, 2, 2, 3, 4]);
  assert.deepEqual([rankAtEnergy([], 0.9), rankAtEnergy([0, 0], 0.9), rankAtEnergy([5], 1)], [0, 0, 1]);
});

test("an adapter of SmolLM2's shape is truncated in seconds", () => {
  const shapes = [
    [576, 576],
    [192, 576],
    [192, 576],
    [576, 576],
    [1536, 576],
    [1536, 576],
    [576, 1536],
  ] as const;
  const modules = shapes.map(([outFeatures, inFeatures]) => factors(outFeatures, inFeatures, 16, 0.9));
  const start = performance.now();
  for (let layer = 0; layer < 30; layer++) for (const module of modules) truncateProduct(module).truncated(8);
  assert.ok(performance.now() - start < 5000, `${performance.now() - start} ms`);
});
