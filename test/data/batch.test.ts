// data/batch.ts: padding, packing and the order of batches.
import assert from "node:assert/strict";
import { test } from "node:test";
import { makeBatch, type PlanOptions, packRows, paddingShare, planBatches } from "../../src/data/batch.ts";
import { type Batch, type Example, IGNORE } from "../../src/data/types.ts";
import { purpose, uniform } from "../../src/random.ts";

/** An example of `length` tokens that are distinguished by `tag`; targets from `first` on. */
const example = (length: number, tag: number, first = 1): Example => {
  const ids = Int32Array.from({ length }, (_, i) => tag * 100 + i);
  return { ids, labels: ids.map((id, i) => (i >= first ? id : IGNORE)) };
};
/** What is fed, as plain numbers. */
const fed = ({ feeds }: Batch) =>
  Object.fromEntries(Object.entries(feeds).map(([name, { data }]) => [name, [...data].map(Number)]));
/** The batch: rows, width, what is fed, and that every rectangle is [rows, width]. */
function plain({ rows, ...batch }: ReturnType<typeof makeBatch>) {
  const { lossRows, lossLabels, ...rectangles } = batch.feeds;
  for (const { shape } of Object.values(rectangles)) assert.deepEqual(shape, [rows.rows, rows.width]);
  for (const { shape } of [lossRows!, lossLabels!]) assert.deepEqual(shape, [batch.targets]);
  return { rows: rows.rows, width: rows.width, ...fed(batch) };
}
const lengths = (n: number) => [...uniform(5, [purpose.sample], n)].map((u) => 1 + Math.floor(u * 200));

const packed = (examples: readonly Example[], maxLength: number): Example[][] => {
  const lengths = examples.map(({ ids }) => ids.length);
  return packRows(lengths, maxLength).map((row) => row.map((i) => examples[i]!));
};
const planned = (lengths: number[], options: PlanOptions): number[][] => {
  const { count, batch } = planBatches(lengths, options);
  return Array.from({ length: count }, (_, i) => batch(i));
};

test("right padding: targets are at the position before them, padding is masked", () => {
  assert.deepEqual(plain(makeBatch([example(4, 1, 2), example(2, 2, 0)], { padId: 9 })), {
    rows: 2,
    width: 4,
    inputIds: [100, 101, 102, 103, 200, 201, 9, 9],
    positionIds: [0, 1, 2, 3, 0, 1, 2, 3],
    attentionMask: [1, 1, 1, 1, 1, 1, 0, 0],
    segmentIds: [0, 0, 0, 0, 0, 0, 0, 0],
    lossRows: [1, 2, 4],
    lossLabels: [102, 103, 201],
  });
});

test("a packed row: positions restart, segments differ, no target across a border", () => {
  assert.deepEqual(plain(makeBatch([[example(3, 1), example(2, 2, 0)], [example(4, 3, 3)], [example(6, 4, 6)]], { padId: 9 })), {
    rows: 3,
    width: 6,
    inputIds: [100, 101, 102, 200, 201, 9, 300, 301, 302, 303, 9, 9, 400, 401, 402, 403, 404, 405],
    positionIds: [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5],
    attentionMask: [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1],
    segmentIds: [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    lossRows: [0, 1, 3, 8],
    lossLabels: [101, 102, 201, 303],
  });
});

test("packing keeps every example whole, fills rows well and is deterministic", () => {
  const examples = lengths(500).map((length, i) => example(length, i));
  const rows = packed(examples, 256);
  const sum = (row: readonly Example[]) => row.reduce((n, { ids }) => n + ids.length, 0);
  assert.deepEqual(new Set(rows.flat()), new Set(examples));
  assert.equal(rows.flat().length, examples.length);
  assert.ok(rows.every((row) => sum(row) <= 256));
  const least = Math.ceil(sum(examples) / 256);
  assert.ok(rows.length <= (11 / 9) * least + 1, `${rows.length} rows, at least ${least}`);
  assert.deepEqual(packed(examples, 256), rows);
  // First fit: what stands in a row would fit in none before it, given what stood there at its turn.
  assert.deepEqual(
    packed(
      [3, 5, 2, 4, 6, 1].map((length, i) => example(length, i)),
      7,
    ).map((row) => row.map(({ ids }) => ids.length)),
    [
      [6, 1],
      [5, 2],
      [4, 3],
    ],
  );
});

test("packing has the same targets as the examples alone", () => {
  const examples = lengths(60).map((length, i) => example(length, i, i % 7));
  const labels = (batch: Batch) => [...fed(batch)["lossLabels"]!].sort((a, b) => a - b);
  const one = makeBatch(packed(examples, 300), { padId: 0 });
  const { inputIds, segmentIds, lossRows, lossLabels } = fed(one) as Record<string, number[]>;
  assert.ok(lossLabels!.length > 1000);
  assert.deepEqual(labels(one), labels(makeBatch(examples, { padId: 0 })));
  lossRows!.forEach((row, i) => {
    assert.equal(inputIds![row + 1], lossLabels![i]);
    assert.equal(segmentIds![row + 1], segmentIds![row]);
  });
});

test("packing: nothing, one, and one that is too long", () => {
  assert.deepEqual(packed([], 8), []);
  assert.equal(packed([example(8, 1)], 8).length, 1);
  assert.throws(() => packed([example(9, 1)], 8), { code: "data/too-long", got: "9" });
});

test("a plan has every row once, the same for the same arguments, another for another seed or epoch", () => {
  const all = lengths(1003);
  for (const bucket of [true, false]) {
    const plan = (seed: number, epoch: number) => planned(all, { batchSize: 4, seed, epoch, bucket });
    const batches = plan(1, 0);
    assert.deepEqual(
      batches.flat().sort((a, b) => a - b),
      all.map((_, i) => i),
    );
    assert.equal(batches.filter(({ length }) => length === 4).length, 250);
    assert.equal(batches.filter(({ length }) => length === 3).length, 1);
    assert.deepEqual(plan(1, 0), batches);
    assert.notDeepEqual(plan(1, 1), batches);
    assert.notDeepEqual(plan(2, 0), batches);
  }
});

test("buckets save padding and are not in order of length", () => {
  const all = lengths(2000);
  const width = (batch: number[]) => Math.max(...batch.map((i) => all[i]!));
  const padded = (bucket: boolean) =>
    planned(all, { batchSize: 8, seed: 3, epoch: 0, bucket }).reduce((n, batch) => n + width(batch) * batch.length, 0);
  const real = all.reduce((a, b) => a + b);
  for (const bucket of [true, false]) {
    const share = paddingShare(all, planBatches(all, { batchSize: 8, seed: 3, epoch: 0, bucket }));
    assert.ok(Math.abs(share - (1 - real / padded(bucket))) < 1e-12);
  }
  assert.ok(padded(true) < 1.05 * real);
  assert.ok(padded(false) > 1.4 * real);
  const widths = planned(all, { batchSize: 8, seed: 3, epoch: 0 }).map(width);
  assert.ok(widths.some((w, i) => w > widths[i + 1]!) && widths.some((w, i) => w < widths[i + 1]!));
});

test("without shuffling, batches are in file order", () => {
  assert.deepEqual(planned([9, 1, 5, 2, 7], { batchSize: 2, seed: 1, epoch: 3, shuffle: false }), [[0, 1], [2, 3], [4]]);
  assert.deepEqual(planned([], { batchSize: 2, seed: 1, epoch: 0 }), []);
  assert.throws(() => planned([1], { batchSize: 0, seed: 1, epoch: 0 }), { code: "data/option", subject: "batchSize" });
});
