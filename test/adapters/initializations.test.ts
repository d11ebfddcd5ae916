// How adapters begin: drawn values, and values of the frozen weight that are taken off it. PEFT's own numbers are in test/fixtures/cases
// (lora-init-*), which the oracle runs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { attach, mergeTargets } from "../../src/adapters/attach.ts";
import { combine } from "../../src/adapters/combine.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { firstTensors, initAdapter } from "../../src/adapters/init.ts";
import { initializations } from "../../src/adapters/initializations.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { orthonormal, topFactors } from "../../src/adapters/qr.ts";
import { truncateAdapter } from "../../src/adapters/resize.ts";
import { approximateMatrix, type Factors, truncateMatrix } from "../../src/adapters/svd.ts";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { normal } from "../../src/random.ts";
import { near, refused, refusedSync } from "../helpers/assert.ts";
import { caseFolder } from "../helpers/golden-rows.ts";

/** B·A, [out, in]. */
function product({ loraA, loraB }: Pick<Factors, "loraA" | "loraB">, rank: number): Float64Array {
  const [columns, rows] = [loraA.length / rank, loraB.length / rank];
  return Float64Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    let sum = 0;
    for (let r = 0; r < rank; r++) sum += loraB[row * rank + r]! * loraA[r * columns + column]!;
    return sum;
  });
}

const largest = (values: ArrayLike<number>) => Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const difference = (a: ArrayLike<number>, b: ArrayLike<number>) => largest(Array.from(a, (value, i) => value - b[i]!));
const module = (rank: number, inFeatures = 40, outFeatures = 24) => {
  return { path: "a", rank, alpha: rank, scale: 1, inFeatures, outFeatures };
};

test("orthogonal factors are a tenth of unit normals, and change nothing", () => {
  const { loraA, loraB } = initAdapter([module(8, 400, 300)], { initLoraWeights: "orthogonal" }, 3).get("a")!;
  assert.ok(largest(product({ loraA, loraB }, 8)) < 1e-7);
  const deviation = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
  // Half of the rank's directions have a deviation of 1/10.
  near(deviation(loraA), 0.1 / Math.SQRT2, 4e-3, "A");
  near(deviation(loraB), 0.1 / Math.SQRT2, 4e-3, "B");
});

test("Householder's Q is orthonormal, also of columns that depend on each other", () => {
  for (const dependent of [false, true]) {
    const matrix = normal(1, [0], 36);
    if (dependent) for (let i = 0; i < 6; i++) matrix[6 * i + 3] = 2 * matrix[6 * i]!;
    const q = orthonormal(matrix, 6);
    const gram = product(
      { loraA: Float32Array.from(q), loraB: Float32Array.from(q, (_, i) => q[(i % 6) * 6 + Math.floor(i / 6)]!) },
      6,
    );
    assert.ok(
      difference(
        gram,
        Float64Array.from({ length: 36 }, (_, i) => Number(i % 7 === 0)),
      ) < 1e-6,
    );
  }
});

test("OLoRA's factors have the signs of PEFT's, element by element", async () => {
  const base = await openBase(nodeFiles, `${caseFolder("lora-init-olora")}/base`);
  const { config, modules, tensors } = await readAdapter(nodeFiles, `${caseFolder("lora-init-olora")}/adapter`);
  const first = await firstTensors(base, config, modules, 0);
  for (const { path } of modules) {
    assert.ok(difference(first.get(path)!.loraA, tensors.get(path)!.loraA) < 2e-6, path);
    assert.ok(difference(first.get(path)!.loraB, tensors.get(path)!.loraB) < 2e-6, path);
  }
});

test("OLoRA of a wide and of a tall weight: the first columns of Q, and all of the weight at full rank", () => {
  for (const [rows, columns] of [
    [12, 30],
    [30, 12],
  ] as const) {
    const weight = normal(2, [0], rows * columns);
    assert.ok(difference(product(topFactors(weight, rows, columns, 12), 12), weight) < 1e-6);
    const { loraB } = topFactors(weight, rows, columns, 5);
    const whole = topFactors(weight, rows, columns, 12).loraB;
    assert.ok(
      difference(
        loraB,
        Float32Array.from(loraB, (_, i) => whole[Math.floor(i / 5) * 12 + (i % 5)]!),
      ) < 1e-7,
    );
  }
});

test("PiSSA's factors share the singular values evenly, and approximations come near to them", () => {
  const [rows, columns, rank] = [60, 90, 6];
  const weight = normal(4, [0], rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) weight[i * columns + j]! *= 0.8 ** i;
  const layer = { weight, inFeatures: columns, outFeatures: rows, rank, scale: 4 };
  const first = initializations["pissa"]!.fromWeight!(layer, "pissa", 0);
  const exact = product(truncateMatrix(weight, rows, columns, rank), rank);
  assert.ok(
    difference(
      product(first, rank).map((value) => 4 * value),
      exact,
    ) < 1e-5,
  );
  for (let r = 0; r < rank; r++) {
    const row = first.loraA.slice(r * columns, (r + 1) * columns);
    const column = first.loraB.filter((_, i) => i % rank === r);
    near(Math.hypot(...row), Math.hypot(...column), 1e-5, `pair ${r}`);
  }
  const errors = [0, 2, 16].map((iterations) =>
    difference(product(approximateMatrix(weight, rows, columns, rank, { iterations, seed: 0 }), rank), exact),
  );
  assert.ok(errors[0]! > errors[1]! && errors[1]! > errors[2]! && errors[2]! < 1e-3, String(errors));
});

test("a weight of a lower rank than the adapter has zeros behind its singular values", () => {
  const [a, b] = [normal(5, [0], 2 * 20), normal(6, [0], 16 * 2)];
  const weight = Float32Array.from(product({ loraA: a, loraB: b }, 2));
  for (const kind of ["pissa", "pissa_niter_4", "olora"] as const) {
    const row = Object.values(initializations).find(({ is }) => is(kind))!;
    const first = row.fromWeight!({ weight, inFeatures: 20, outFeatures: 16, rank: 5, scale: 1 }, kind, 0);
    assert.equal(first.loraA.length, 5 * 20);
    assert.ok(difference(product(first, 5), weight) < 1e-5, kind);
  }
});

test("a rank that an initialization cannot begin with is refused", () => {
  const modules = [{ path: "a.q", kind: "linear" as const, inFeatures: 40, outFeatures: 24, isOutputEmbedding: false }];
  const match = (init: "orthogonal" | "pissa" | "olora", rank: number) =>
    matchModules(modules as never, loraConfig({ rank, targetModules: ["q"], initLoraWeights: init }), "llama");
  assert.equal(match("olora", 24).length, 1);
  for (const [init, rank] of [
    ["orthogonal", 3],
    ["pissa", 25],
    ["olora", 25],
  ] as const) {
    assert.match(refusedSync(() => match(init, rank), "lora/config").got!, new RegExp(`rank ${rank}`));
  }
});

for (const init of ["pissa", "olora"]) {
  test(`an adapter of ${init} as PEFT stores it needs its base, and is a plain one then`, async () => {
    const base = await openBase(nodeFiles, `${caseFolder(`lora-init-${init}`)}/base`);
    const stored = await readAdapter(nodeFiles, `${caseFolder(`lora-init-${init}`)}/adapter`);
    for (const use of [
      () => combine([stored, stored]),
      () => truncateAdapter(stored, { rank: 2 }),
      () => mergeTargets(stored, base.modules),
    ]) {
      assert.equal(refusedSync(use, "adapter/residual").subject, "init_lora_weights");
    }
    const { adapter } = await attach(base, stored);
    assert.equal(adapter.config.initLoraWeights, true);
    assert.equal(adapter.config.rank, 2 * stored.config.rank);
    // It was not trained yet: its update is nothing.
    for (const { path, rank } of adapter.modules) assert.ok(largest(product(adapter.tensors.get(path)!, rank)) < 1e-5, path);
    assert.deepEqual((await attach(base, adapter)).adapter, adapter);
  });
}

test("first values that PEFT draws anew at each load cannot be taken off again", async () => {
  const base = await openBase(nodeFiles, `${caseFolder("lora-init-pissa")}/base`);
  const stored = await readAdapter(nodeFiles, `${caseFolder("lora-init-pissa")}/adapter`);
  const drawn = { ...stored, config: { ...stored.config, initLoraWeights: "pissa_niter_16" as const } };
  assert.match((await refused(attach(base, drawn))).message, /at every load/);
});
