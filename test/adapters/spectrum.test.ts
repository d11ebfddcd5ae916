// Norm and effective rank of updates, against factors made from known singular values and against the product itself.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { describeAdapter, MAX_SPECTRUM_RANK, type ModuleDescription } from "../../src/adapters/describe.ts";
import type { Adapter } from "../../src/adapters/peft-files.ts";
import { effectiveRank } from "../../src/adapters/spectrum.ts";
import { normal, purpose } from "../../src/random.ts";
import { near } from "../helpers/assert.ts";

/** One module with these factors, described. */
function describe(loraA: Float32Array, loraB: Float32Array, rank: number, scale = 1): ModuleDescription {
  const module = {
    path: "a.q",
    rank,
    alpha: rank * scale,
    scale,
    inFeatures: loraA.length / rank,
    outFeatures: loraB.length / rank,
  };
  const adapter: Adapter = {
    config: loraConfig({ rank }),
    modules: [module],
    tensors: new Map([["a.q", { loraA, loraB }]]),
  };
  return describeAdapter(adapter).modules[0]!;
}

/** `count` orthonormal vectors of `length` numbers, by Gram and Schmidt. */
function orthonormal(count: number, length: number, seed: number): number[][] {
  const vectors: number[][] = [];
  for (let i = 0; i < count; i++) {
    let vector = [...normal(seed, [purpose.init, i], length)];
    for (const other of [...vectors, ...vectors]) {
      const share = other.reduce((sum, value, k) => sum + value * vector[k]!, 0);
      vector = vector.map((value, k) => value - share * other[k]!);
    }
    const size = Math.hypot(...vector);
    vectors.push(vector.map((value) => value / size));
  }
  return vectors;
}

/** A [rank, in] and B [out, rank] whose product has these singular values: B = U·D·Q·C, A = C⁻¹·Qᵀ·Vᵀ. */
function factors(values: readonly number[], inFeatures: number, outFeatures: number) {
  const rank = values.length;
  const [u, v, q] = [orthonormal(rank, outFeatures, 1), orthonormal(rank, inFeatures, 2), orthonormal(rank, rank, 3)];
  const uneven = (i: number) => 2 ** ((i % 5) - 2);
  const sum = (of: (k: number) => number) => values.reduce((total, _, k) => total + of(k), 0);
  const loraA = Float32Array.from({ length: rank * inFeatures }, (_, at) => {
    const [row, column] = [Math.floor(at / inFeatures), at % inFeatures];
    return sum((k) => q[k]![row]! * v[k]![column]!) / uneven(row);
  });
  const loraB = Float32Array.from({ length: outFeatures * rank }, (_, at) => {
    const [row, column] = [Math.floor(at / rank), at % rank];
    return sum((k) => u[k]![row]! * values[k]! * q[k]![column]!) * uneven(column);
  });
  return { loraA, loraB };
}

const entropy = (shares: readonly number[]) => -shares.reduce((sum, share) => sum + share * Math.log(share), 0);

test("norm and effective rank are those of the singular values that the factors were made from", () => {
  const cases: number[][] = [
    [1, 1, 1, 1, 1, 1, 1, 1],
    [5, 3, 2, 1, 0.5, 0.1, 0.01, 0.001],
    [7],
    [3, 3, 0.2],
    Array.from({ length: 32 }, (_, i) => 0.8 ** i),
  ];
  for (const values of cases) {
    const { loraA, loraB } = factors(values, 48, 40);
    const module = describe(loraA, loraB, values.length, 0.25);
    const total = values.reduce((sum, value) => sum + value, 0);
    near(module.normDelta, 0.25 * Math.hypot(...values), { rtol: 1e-5 });
    near(module.effectiveRank!, Math.exp(entropy(values.map((value) => value / total))), { rtol: 1e-5 });
  }
});

test("directions that repeat, or come with nothing, do not count", () => {
  const { loraA, loraB } = factors([2, 1], 30, 20);
  // The same rank-2 product written with 4 columns: two of B's columns doubled, and one of A's rows zero.
  const wideA = Float32Array.from([...loraA, ...loraA.subarray(30), ...new Float32Array(30)]);
  const wideB = Float32Array.from({ length: 80 }, (_, at) => {
    const [row, column] = [Math.floor(at / 4), at % 4];
    const of = (j: number) => loraB[row * 2 + j]!;
    return [of(0), of(1) / 2, of(1) / 2, 9][column]!;
  });
  const wanted = Math.exp(entropy([2 / 3, 1 / 3]));
  near(describe(loraA, loraB, 2).effectiveRank!, wanted, { rtol: 1e-5 });
  near(describe(wideA, wideB, 4).effectiveRank!, wanted, { rtol: 1e-5 });
  near(describe(wideA, wideB, 4).normDelta, Math.sqrt(5), { rtol: 1e-5 });
});

test("an adapter before its first step has no direction", () => {
  const module = describe(normal(1, [purpose.init], 80), new Float32Array(60), 4);
  assert.deepEqual([module.normDelta, module.effectiveRank], [0, 0]);
  assert.ok(module.normA > 0 && module.normB === 0);
  assert.equal(effectiveRank([]), 0);
});

test("the rank may exceed both sides of the weight", () => {
  const [rank, inFeatures, outFeatures] = [12, 5, 7];
  const [loraA, loraB] = [normal(1, [purpose.init], rank * inFeatures), normal(2, [purpose.init], rank * outFeatures)];
  const product = Array.from({ length: outFeatures * inFeatures }, (_, at) => {
    const [row, column] = [Math.floor(at / inFeatures), at % inFeatures];
    let sum = 0;
    for (let r = 0; r < rank; r++) sum += loraB[row * rank + r]! * loraA[r * inFeatures + column]!;
    return sum;
  });
  const module = describe(loraA, loraB, rank);
  near(module.normDelta, Math.hypot(...product), { rtol: 1e-6 });
  assert.ok(module.effectiveRank! > 1 && module.effectiveRank! <= inFeatures + 1e-6, String(module.effectiveRank));
});

test("above the largest rank the norm is that of the product, and directions are not counted", () => {
  const rank = MAX_SPECTRUM_RANK + 1;
  const module = describe(new Float32Array(rank * 2).fill(1), new Float32Array(rank * 3).fill(1), rank);
  near(module.normDelta, rank * Math.sqrt(6), { rtol: 1e-6 });
  assert.equal(module.effectiveRank!, null);
});

test("values as large, as small or as wrong as float32 has them come to an end", () => {
  const [rank, length] = [4, 50];
  const factor = (size: number, seed: number) => normal(seed, [purpose.init], rank * length).map((value) => value * size);
  const usual = describe(factor(1, 1), factor(1, 2), rank).effectiveRank!;
  for (const size of [1e-40, 1e-20, 1e20, 3e37]) {
    near(describe(factor(size, 1), factor(size, 2), rank).effectiveRank!, usual, size < 1e-30 ? 1e-2 : 1e-5);
  }
  for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.ok(!Number.isFinite(describe(factor(1, 1).fill(wrong, 7, 8), factor(1, 2), rank).normDelta));
  }
});
