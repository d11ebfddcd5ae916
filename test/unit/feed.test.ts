// What a step trains on: every example once an epoch, the same for the same seed and step, whatever was asked before.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Batch, Example } from "../../src/data/types.ts";
import { LowrankError } from "../../src/errors.ts";
import { type FeedOptions, feedExamples } from "../../src/train/feed.ts";
import { toyRows } from "../helpers/toy.ts";

// The first token of each example names it.
const examples: Example[] = toyRows(23).map((row, i) => {
  const ids = Int32Array.from([100 + i, ...row]);
  return { ids, labels: ids.slice() };
});
const options: FeedOptions = { batchSize: 3, gradientAccumulation: 2, seed: 4, padId: 0 };

const namesOf = (batches: Batch[]) => batches.flatMap(({ inputIds }) => [...inputIds].filter((id) => id >= 100));
const epochOf = (feed: ReturnType<typeof feedExamples>, epoch: number) =>
  Array.from({ length: feed.stepsPerEpoch }, (_, i) => feed.microBatches(epoch * feed.stepsPerEpoch + i));

for (const [what, change, steps] of [
  ["shuffled and bucketed", {}, 4],
  ["in order", { shuffle: false }, 4],
  ["shuffled alone", { bucket: false }, 4],
  ["packed", { packLength: 24 }, undefined],
] as const) {
  test(`${what}: an epoch has every example once, and micro-batches of the size asked`, () => {
    const feed = feedExamples(examples, { ...options, ...change });
    if (steps !== undefined) assert.equal(feed.stepsPerEpoch, steps);
    for (const epoch of [0, 1, 5]) {
      const batches = epochOf(feed, epoch);
      const all = batches.flatMap(namesOf).sort((a, b) => a - b);
      assert.deepEqual(
        all,
        Array.from({ length: 23 }, (_, i) => 100 + i),
      );
      for (const step of batches) assert.ok(step.length >= 1 && step.length <= 2);
      assert.ok(batches.flat().every(({ rows }) => rows <= 3));
    }
  });
}

test("a step is the same whatever was asked before", () => {
  const feed = feedExamples(examples, options);
  const forwards = Array.from({ length: 12 }, (_, step) => feed.microBatches(step));
  for (let step = 11; step >= 0; step--) {
    assert.deepEqual(feed.microBatches(step), forwards[step]);
    assert.deepEqual(feedExamples(examples, options).microBatches(step), forwards[step]);
  }
});

test("epochs and seeds have orders of their own", () => {
  const order = (seed: number, epoch: number) =>
    epochOf(feedExamples(examples, { ...options, seed }), epoch)
      .flatMap(namesOf)
      .join();
  assert.equal(new Set([order(4, 0), order(4, 1), order(5, 0)]).size, 3);
});

test("facts tell other data, order and packing apart", () => {
  const facts = (data: Example[], change: Partial<FeedOptions> = {}) =>
    JSON.stringify(feedExamples(data, { ...options, ...change }).facts);
  const masked = { ids: examples[0]!.ids, labels: examples[0]!.labels.map((label, i) => (i === 1 ? -100 : label)) };
  const all = [
    facts(examples),
    facts([...examples].reverse()),
    facts([masked, ...examples.slice(1)]),
    facts(examples, { packLength: 24 }),
    facts(examples, { shuffle: false }),
    facts(examples, { gradientAccumulation: 1 }),
    facts(examples, { seed: 5 }),
  ];
  assert.equal(new Set(all).size, all.length);
  assert.equal(facts(examples.map(({ ids, labels }) => ({ ids: ids.slice(), labels: labels.slice() }))), all[0]);
});

test("nothing to learn is refused by name", () => {
  const refused = (data: Example[], pattern: RegExp, change: Partial<FeedOptions> = {}) =>
    assert.throws(
      () => feedExamples(data, { ...options, ...change }),
      (error) => error instanceof LowrankError && pattern.test(error.describe()),
    );
  const masked = { ids: Int32Array.of(1, 2), labels: Int32Array.of(1, -100) };
  refused([], /^examples: there is nothing to learn/);
  refused([examples[0]!, masked], /^example 1 \(from 0\): there is nothing to learn/);
  refused(examples, /^gradientAccumulation/, { gradientAccumulation: 0 });
  refused(examples, /^batchSize/, { batchSize: 0.5 });
});
