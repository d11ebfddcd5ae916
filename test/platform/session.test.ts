// A session: what stays beside the engine from run to run, and how failures come back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { check } from "../../src/graph/graph.ts";
import { add } from "../../src/graph/ops/elementwise.ts";
import { input } from "../../src/graph/ops/leaves.ts";
import { concat } from "../../src/graph/ops/shape.ts";
import { whole } from "../../src/graph/stages.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { float32 } from "../../src/tensor.ts";

const vector = (...values: number[]) => float32([values.length], Float32Array.from(values));

/** sum = x + y, grown = past ++ x. */
function open() {
  const [x, y, past] = [input("x", "float32", ["n"]), input("y", "float32", ["n"]), input("past", "float32", ["m"])];
  const graph = check({ outputs: { sum: add(x, y), grown: concat([past, x], 0) } });
  return openNodeSession(whole(graph), { threads: 1 });
}

test("bound inputs serve every run, until bound again; feeds count above them", async () => {
  const session = await open();
  await session.bind({ y: vector(10, 20), past: vector() });
  const sum = async (feeds = {}) => [...(await session.run({ x: vector(1, 2), ...feeds }, { fetches: ["sum"] }))["sum"]!.data];
  assert.deepEqual(await sum(), [11, 22]);
  assert.deepEqual(await sum(), [11, 22]);
  assert.deepEqual(await sum({ y: vector(5, 5) }), [6, 7]);
  assert.deepEqual(await sum(), [11, 22]);
  await session.bind({ y: vector(0, 1) });
  assert.deepEqual(await sum(), [1, 3]);
  await session.close();
});

test("a carried output feeds the next run and is returned only where it is fetched", async () => {
  const session = await open();
  await session.bind({ y: vector(0), past: vector() });
  const carry = { grown: "past" };
  for (const value of [1, 2]) assert.deepEqual(Object.keys(await session.run({ x: vector(value) }, { carry })), ["sum"]);
  const { grown } = await session.run({ x: vector(3) }, { fetches: ["grown"], carry });
  assert.deepEqual([...grown!.data], [1, 2, 3]);
  const all = await session.run({ x: vector(4) });
  assert.deepEqual([...all["grown"]!.data], [1, 2, 3, 4]);
  assert.deepEqual([...all["sum"]!.data], [4]);
  await session.bind({ past: vector() });
  assert.deepEqual([...(await session.run({ x: vector(5) }))["grown"]!.data], [5]);
  await session.close();
});

test("a run that fails carries nothing, and the session goes on", async () => {
  const session = await open();
  await session.bind({ past: vector(7) });
  await assert.rejects(session.run({ x: vector(1) }, { carry: { grown: "past" } }), {
    code: "runtime/engine",
  });
  const { grown } = await session.run({ x: vector(8), y: vector(0) });
  assert.deepEqual([...grown!.data], [7, 8]);
  await session.close();
  await assert.rejects(session.run({ x: vector(8), y: vector(0) }), { code: "runtime/engine", got: /closed/ });
});
