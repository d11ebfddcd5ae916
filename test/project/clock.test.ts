// Reports of work under way.
import assert from "node:assert/strict";
import { test } from "node:test";
import { reports } from "../../src/clock.ts";

const turn = () => new Promise((resolve) => setTimeout(resolve, 5));

test("reports come while work is awaited, the last of several, and its result at the end", async () => {
  const { add, during } = reports<number>();
  add(0);
  const work = (async () => {
    await turn();
    add(1);
    add(2);
    await turn();
    add(3);
    return "done";
  })();
  const seen: number[] = [];
  const events = during(work);
  let next = await events.next();
  for (; !next.done; next = await events.next()) seen.push(next.value);
  assert.deepEqual(seen, [0, 2, 3]);
  assert.equal(next.value, "done");
});

test("work that fails ends the reports with its error", async () => {
  const failing = reports<number>().during(turn().then(() => Promise.reject(new Error("no"))));
  await assert.rejects(failing.next(), /no/);
});
