// data/store.ts: what was added is read again, from memory and from the file, whole and in any order.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type ExampleStore, exampleStore, inMemory, inOrder, subset, targetsIn } from "../../src/data/store.ts";
import { type Example, IGNORE } from "../../src/data/types.ts";
import { purpose, uniform } from "../../src/random.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { slow } from "../helpers/slow.ts";

/** `count` examples of up to `longest` ids below `limit`, with runs of targets here and there. */
function examplesOf(count: number, longest: number, limit: number): Example[] {
  const draws = uniform(9, [purpose.sample], count * (longest + 1));
  return Array.from({ length: count }, (_, i) => {
    const own = draws.subarray(i * (longest + 1), (i + 1) * (longest + 1));
    const ids = Int32Array.from(own.subarray(1, 1 + Math.floor(own[0]! * (longest + 1))), (draw) => Math.floor(draw * limit));
    return { ids, labels: ids.map((id, t) => ((id + t) % 3 === 0 ? IGNORE : id)) };
  });
}

async function filled(examples: readonly Example[], options: Parameters<typeof exampleStore>[0]): Promise<ExampleStore> {
  const store = exampleStore(options);
  for (const example of examples) await store.add(example);
  return store;
}

for (const [what, limit] of [
  ["two bytes a token", 65_536],
  ["four bytes a token", 200_000],
] as const) {
  test(`${what}: examples are what was added, with their counts`, async () => {
    const examples = examplesOf(300, 40, limit);
    const store = await filled(examples, { limit });
    assert.equal(store.length, 300);
    const order = [299, 3, 3, 0, 4, 5, 6, 120];
    assert.deepEqual(
      await store.read(order),
      order.map((i) => examples[i]),
    );
    for (const [i, example] of examples.entries()) {
      assert.equal(store.tokensOf(i), example.ids.length);
      assert.equal(store.targetsOf(i), targetsIn(example));
    }
    assert.equal(store.spilled, 0);
  });

  test(`${what}: beyond the memory allowed, tokens are read from the file`, slow, async () => {
    const files = memoryFiles();
    const examples = examplesOf(9000, 700, limit);
    const store = await filled(examples, { limit, spill: { files, path: "out/.examples", memoryBytes: 1 } });
    const bytes = files.contents.get("out/.examples")!.length;
    assert.ok(store.spilled >= 4 << 20 && store.spilled === bytes);
    const order = [8999, 0, 1, 4500, 4499, 17, 8998];
    assert.deepEqual(
      await store.read(order),
      order.map((i) => examples[i]),
    );
    files.reads.length = 0;
    let i = 0;
    for await (const example of inOrder(store)) assert.deepEqual(example, examples[i++]);
    assert.equal(i, examples.length);
    assert.ok(files.reads.length < 30, "examples that lie together are read together");
    await store.close();
    assert.equal(files.contents.has("out/.examples"), false);
  });
}

test("a subset counts and reads the examples it names", async () => {
  const examples = examplesOf(20, 9, 100);
  const some = subset(inMemory(examples), [7, 0, 19]);
  assert.equal(some.length, 3);
  assert.deepEqual(await some.read([2, 0]), [examples[19], examples[7]]);
  assert.deepEqual([some.tokensOf(1), some.targetsOf(1)], [examples[0]!.ids.length, targetsIn(examples[0]!)]);
});
