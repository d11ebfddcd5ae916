// Random numbers: Random123's published vectors, and the statistics and independence that their users rely on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { normal, permutation, purpose, threefry4x32, uniform } from "../../src/random.ts";

const words = (hex: string) => Uint32Array.from(hex.split(" ").map((word) => Number.parseInt(word, 16)));
const zeros = "00000000 00000000 00000000 00000000";
const ones = "ffffffff ffffffff ffffffff ffffffff";
const piCounter = "243f6a88 85a308d3 13198a2e 03707344";
const piKey = "a4093822 299f31d0 082efa98 ec4e6c89";

test("Threefry4x32 gives the known answers of Random123 (kat_vectors)", () => {
  for (const [rounds, counter, key, answer] of [
    [13, zeros, zeros, "531c7e4f 39491ee5 2c855a92 3d6abf9a"],
    [13, ones, ones, "c4189358 1c9cc83a d5881c67 6a0a89e0"],
    [13, piCounter, piKey, "4aa71d8f 734738c2 431fc6a8 ae6debf1"],
    [20, zeros, zeros, "9c6ca96a e17eae66 fc10ecd4 5256a7d8"],
    [20, ones, ones, "2a881696 57012287 f6c7446e a16a6732"],
    [20, piCounter, piKey, "59cd1dbb b8879579 86b5d00c ac8b6d84"],
  ] as const) {
    assert.deepEqual(threefry4x32(words(key), words(counter), new Uint32Array(4), rounds), words(answer), `${rounds} ${counter}`);
  }
});

test("a stream is a function of seed, stream and index alone", () => {
  const long = uniform(42, [purpose.dropout, 3, 1], 10_000);
  for (const count of [0, 1, 3, 4, 4095, 4096, 4097]) {
    assert.deepEqual(uniform(42, [purpose.dropout, 3, 1], count), long.slice(0, count));
    assert.deepEqual(normal(42, [purpose.init], count), normal(42, [purpose.init], 10_000).slice(0, count));
  }
  const pool = new Float32Array(100).fill(7);
  assert.equal(uniform(42, [purpose.dropout, 3, 1], pool), pool);
  assert.deepEqual(pool, long.slice(0, 100));
});

test("seeds, purposes and coordinates give different numbers", () => {
  const streams = [
    uniform(42, [purpose.dropout, 3, 1], 8),
    uniform(43, [purpose.dropout, 3, 1], 8),
    uniform(42 + 2 ** 32, [purpose.dropout, 3, 1], 8),
    uniform(-42, [purpose.dropout, 3, 1], 8),
    uniform(42, [purpose.sample, 3, 1], 8),
    uniform(42, [purpose.dropout, 1, 3], 8),
    uniform(42, [purpose.dropout, 3], 8),
  ];
  assert.equal(new Set(streams.flatMap((stream) => [...stream])).size, 8 * streams.length);
  assert.throws(() => uniform(0.5, [purpose.init], 1), { code: "random/seed" });
});

const moments = (values: Float32Array) => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length };
};

test("uniform numbers fill [0, 1) evenly", () => {
  const values = uniform(1, [purpose.dropout], 400_000);
  assert.ok(values.every((value) => value >= 0 && value < 1));
  const { mean, variance } = moments(values);
  assert.ok(Math.abs(mean - 0.5) < 0.002 && Math.abs(variance - 1 / 12) < 0.001, `${mean} ${variance}`);
  const counts = new Float64Array(20);
  for (const value of values) counts[Math.floor(value * 20)]!++;
  const chiSquare = counts.reduce((sum, count) => sum + (count - 20_000) ** 2 / 20_000, 0);
  assert.ok(chiSquare < 45, `${chiSquare}`);
});

test("normal numbers have mean 0, variance 1 and normal tails", () => {
  const values = normal(1, [purpose.init], 400_000);
  const { mean, variance } = moments(values);
  assert.ok(Math.abs(mean) < 0.006 && Math.abs(variance - 1) < 0.01, `${mean} ${variance}`);
  const beyond = (limit: number) => values.reduce((count, value) => count + Number(Math.abs(value) > limit), 0) / values.length;
  assert.ok(Math.abs(beyond(1) - 0.3173) < 0.004 && Math.abs(beyond(2) - 0.0455) < 0.002);
});

test("a permutation holds every number once, and every order comes up", () => {
  const order = permutation(7, [purpose.shuffle, 0], 5000);
  assert.deepEqual(
    Int32Array.from(order).sort(),
    Int32Array.from({ length: 5000 }, (_, i) => i),
  );
  assert.notDeepEqual(order, permutation(7, [purpose.shuffle, 1], 5000));
  assert.deepEqual(order, permutation(7, [purpose.shuffle, 0], 5000));
  const seen = new Map<string, number>();
  for (let epoch = 0; epoch < 6000; epoch++) {
    const key = permutation(7, [purpose.shuffle, epoch], 3).join("");
    seen.set(key, (seen.get(key) ?? 0) + 1);
  }
  assert.equal(seen.size, 6);
  for (const count of seen.values()) assert.ok(Math.abs(count - 1000) < 150, `${count}`);
  assert.deepEqual([...permutation(7, [purpose.shuffle], 0)], []);
  assert.deepEqual([...permutation(7, [purpose.shuffle], 1)], [0]);
});
