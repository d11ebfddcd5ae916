// What a step trains on: every example once an epoch, the same for the same seed and step, whatever was asked before.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../src/data/collate.ts";
import { inMemory } from "../../src/data/store.ts";
import { type Batch, type Example, total } from "../../src/data/types.ts";
import { alone } from "../../src/distributed/communicator.ts";
import { dataLoader, type LoaderOptions, type RowLoader } from "../../src/train/data-loader.ts";
import { refused } from "../helpers/assert.ts";
import { toyRows } from "../helpers/toy.ts";

// The first token of each example names it.
const examples: Example[] = toyRows(23).map((row, i) => {
  const ids = Int32Array.from([100 + i, ...row]);
  return { ids, labels: ids.slice() };
});
type Options = LoaderOptions & { packLength?: number };
const options: Options = { batchSize: 3, gradientAccumulation: 2, seed: 4 };

const namesOf = (batches: Batch[]) =>
  batches.flatMap(({ feeds }) => [...(feeds["inputIds"]!.data as Int32Array)].filter((id) => id >= 100));
const loaderOf = (data: readonly Example[], { packLength, ...change }: Partial<Options> = {}) =>
  dataLoader(collate(inMemory(data), 0, packLength), { ...options, ...change });
const epochOf = <B extends Batch>(loader: RowLoader<B>, epoch: number) =>
  Promise.all(Array.from({ length: loader.stepsPerEpoch }, (_, i) => loader.microBatches(epoch * loader.stepsPerEpoch + i)));

for (const [what, change, steps] of [
  ["shuffled and bucketed", {}, 4],
  ["in order", { shuffle: false }, 4],
  ["shuffled alone", { bucket: false }, 4],
  ["packed", { packLength: 24 }, undefined],
] as const) {
  test(`${what}: an epoch has every example once, and micro-batches of the size asked`, async () => {
    const loader = await loaderOf(examples, change);
    if (steps !== undefined) assert.equal(loader.stepsPerEpoch, steps);
    for (const epoch of [0, 1, 5]) {
      const batches = await epochOf(loader, epoch);
      const all = batches.flatMap(namesOf).sort((a, b) => a - b);
      assert.deepEqual(
        all,
        Array.from({ length: 23 }, (_, i) => 100 + i),
      );
      for (const step of batches) assert.ok(step.length >= 1 && step.length <= 2);
      assert.ok(batches.flat().every(({ rows: { rows } }) => rows <= 3));
      const sizes = batches.map((_, i) => loader.sizes(epoch * loader.stepsPerEpoch + i));
      const wanted = batches.map((step) =>
        step.map(({ rows: { rows, width }, feeds, targets }) => {
          assert.equal(feeds["lossRows"]!.data.length, targets);
          return { rows, width, targets };
        }),
      );
      assert.deepEqual(sizes, wanted, "sizes are known without the batches");
    }
  });
}

test("padding is known of both orders", async () => {
  const [grouped, alone] = [await loaderOf(examples), await loaderOf(examples, { bucket: false })].map((one) => one.padding());
  assert.deepEqual(alone, { share: grouped!.otherwise, otherwise: grouped!.share });
  assert.deepEqual((await loaderOf(examples, { batchSize: 1 })).padding(), { share: 0, otherwise: 0 });
});

test("a step is the same whatever was asked before", async () => {
  const loader = await loaderOf(examples);
  const forwards = await Promise.all(Array.from({ length: 12 }, (_, step) => loader.microBatches(step)));
  for (let step = 11; step >= 0; step--) {
    assert.deepEqual(await loader.microBatches(step), forwards[step]);
    assert.deepEqual(await (await loaderOf(examples)).microBatches(step), forwards[step]);
  }
});

test("epochs and seeds have orders of their own", async () => {
  const order = async (seed: number, epoch: number) =>
    (await epochOf(await loaderOf(examples, { seed }), epoch)).flatMap(namesOf).join();
  assert.equal(new Set([await order(4, 0), await order(4, 1), await order(5, 0)]).size, 3);
});

test("facts differ for other data, order and packing", async () => {
  const facts = async (data: Example[], change: Partial<Options> = {}) => JSON.stringify((await loaderOf(data, change)).facts);
  const masked = { ids: examples[0]!.ids, labels: examples[0]!.labels.map((label, i) => (i === 1 ? -100 : label)) };
  const all = [
    await facts(examples),
    await facts([...examples].reverse()),
    await facts([masked, ...examples.slice(1)]),
    await facts(examples, { packLength: 24 }),
    await facts(examples, { shuffle: false }),
    await facts(examples, { gradientAccumulation: 1 }),
    await facts(examples, { seed: 5 }),
  ];
  assert.equal(new Set(all).size, all.length);
  assert.equal(await facts(examples.map(({ ids, labels }) => ({ ids: ids.slice(), labels: labels.slice() }))), all[0]);
});

test("nothing to learn is refused by name", async () => {
  const isRefused = (data: Example[], text: RegExp, change: Partial<Options> = {}) =>
    refused(loaderOf(data, change), undefined, { text });
  const masked = { ids: Int32Array.of(1, 2), labels: Int32Array.of(1, -100) };
  await isRefused([], /^examples: there are no targets/);
  await isRefused([examples[0]!, masked], /^example 1 \(from 0\): there are no targets/);
  await isRefused(examples, /^gradientAccumulation/, { gradientAccumulation: 0 });
  await isRefused(examples, /^batchSize/, { batchSize: 0.5 });
});

test("a batch of many places is computed in parts, the longest rows together, each row once", async () => {
  const long = [40, 10, 30, 35, 12, 20, 8].map((length, i): Example => {
    const ids = new Int32Array(length).fill(7).fill(100 + i, 0, 1);
    return { ids, labels: ids.slice() };
  });
  const loader = await loaderOf(long, { batchSize: 7, gradientAccumulation: 1, shuffle: false });
  const whole = await loader.microBatches(0);
  assert.equal(whole.length, 1);
  const how = { passTokens: 80 };
  const parts = await loader.shared(alone, how).microBatches(0);
  assert.deepEqual(
    parts.map(({ rows: { rows, width } }) => [rows, width]),
    [
      [2, 40],
      [2, 30],
      [3, 12],
    ],
  );
  assert.deepEqual(namesOf(parts).sort(), namesOf(whole).sort());
  assert.deepEqual(
    loader.shared(alone, how).sizes(0),
    parts.map(({ rows: { rows, width }, targets }) => ({ rows, width, targets })),
  );
  assert.equal(total(parts, "targets"), total(whole, "targets"));
  assert.ok(loader.padding(how).share < loader.padding().share, "less is padding");
  // A row that is too long by itself is a part, and what fits is left as it is.
  assert.equal((await loader.shared(alone, { passTokens: 1 }).microBatches(0)).length, 7);
  assert.deepEqual(await loader.shared(alone, { passTokens: 7 * 40 }).microBatches(0), whole);
  // Eleven equal rows of which ten fit are not ten and one.
  const equal = await loaderOf(new Array(11).fill(long[1]), { batchSize: 11, gradientAccumulation: 1 });
  const even = await equal.shared(alone, { passTokens: 100 }).microBatches(0);
  assert.deepEqual(
    even.map(({ rows: { rows } }) => rows),
    [6, 5],
  );
});
