// What is read when of weights that stream, and how much memory holds them.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Files } from "../../src/files.ts";
import type { Handle, Machine, Memory } from "../../src/runtime/machine.ts";
import { type StageRead, type StageReads, streamedWeights } from "../../src/runtime/streamed.ts";

/** A machine and files that count: what is read, tensors that are there, bytes of memory that are, and most of them. */
function counted() {
  const reads: string[] = [];
  const tensors = new Map<Handle, Uint8Array>();
  const memory = { now: 0, most: 0 };
  let next = 1n;
  const machine = {
    allocate(length: number): Memory {
      memory.now += length;
      memory.most = Math.max(memory.most, memory.now);
      return {
        bytes: new Uint8Array(length),
        free() {
          memory.now -= length;
        },
      };
    },
    tensor(_dtype, _shape, bytes) {
      tensors.set(next, bytes);
      return next++;
    },
    free: (handle) => void assert.ok(tensors.delete(handle), "freed once"),
  } as Machine;
  const files = {
    read: async (file: string, _offset: number, length: number, into: Uint8Array) => {
      reads.push(file);
      await new Promise((resolve) => setTimeout(resolve, 1));
      into.fill(Number(file.replace(/\D/g, "")));
      assert.equal(into.length, length);
      return into;
    },
  } as unknown as Files;
  return { machine, files, reads, tensors, memory };
}

type Sizes = ReadonlyMap<string, number>;
const stageOf = (weights: Record<string, number>): Sizes => new Map(Object.entries(weights));

/** What `streamedWeights` is given of stages whose weights lie in files of their own. */
const readsOf = (stages: readonly Sizes[], files: Files): StageReads[] =>
  stages.map((weights) => {
    const reads = [...weights].map(([name, length]): [string, StageRead] => {
      return [name, { dtype: "uint8", shape: [length], length, read: (into) => files.read(name, 0, length, into) }];
    });
    return new Map(reads);
  });

// Three layers of two stages, forward; an output layer in five chunks; the layers backward.
const layers = [1, 2, 3].flatMap((i) => [stageOf({ [`attention${i}`]: 640 }), stageOf({ [`mlp${i}`]: 6400 })]);
const chunks = [4, 5, 6, 7, 8].map((i) => stageOf({ [`chunk${i}`]: 1280 }));
const stages: Sizes[] = [...layers, ...chunks, new Map(), ...layers.toReversed()];
const order = stages.map((_, i) => i);

test("each stage has its weights; those of the two next are read meanwhile, and the last layer's once", async () => {
  const { machine, files, reads, tensors, memory } = counted();
  const streamed = streamedWeights(readsOf(stages, files), machine);
  for (let step = 0; step < 3; step++) {
    const before = reads.length;
    const run = streamed.run(order);
    for (const at of order) {
      const handles = await run.of(at);
      assert.deepEqual([...handles.keys()], [...stages[at]!.keys()]);
      for (const [name, handle] of handles) {
        assert.ok(
          tensors.get(handle)!.every((byte) => byte === Number(name.replace(/\D/g, ""))),
          `${name} at ${at}`,
        );
      }
      const ahead = order.slice(at + 1).filter((stage) => stages[stage]!.size > 0);
      for (const stage of ahead.slice(0, 2)) for (const name of stages[stage]!.keys()) assert.ok(reads.includes(name));
      run.done(at);
    }
    const read = reads.slice(before);
    const times = (name: string) => read.filter((one) => one === name).length;
    assert.equal(times("mlp3"), 1, "kept over the chunks of the output layer");
    assert.equal(times("mlp2"), 2);
    assert.equal(times("chunk6"), 1);
    if (step > 0) assert.ok(times("attention1") <= 1, "the first layer of the next step is the last of this one");
  }
  assert.ok(memory.most <= 3 * 6400 + 1280, `${memory.most} bytes`);
  await streamed.close();
  assert.equal(memory.now, 0);
  assert.equal(tensors.size, 0);
});

test("a run of other stages, and one that ends early, leave nothing behind", async () => {
  const { machine, files, tensors, memory } = counted();
  const streamed = streamedWeights(readsOf(stages, files), machine);
  const stopped = streamed.run(order);
  await stopped.of(0); // and then it failed
  const forward = order.slice(0, 11);
  for (let evaluation = 0; evaluation < 2; evaluation++) {
    const run = streamed.run(forward);
    for (const at of forward.keys()) {
      assert.equal((await run.of(at)).size, 1);
      run.done(at);
    }
  }
  await streamed.close();
  assert.equal(memory.now, 0);
  assert.equal(tensors.size, 0);
});

test("a file that cannot be read fails the stage that needs it, and is read again by the next run", async () => {
  const { machine, files, memory } = counted();
  let isBroken = true;
  const breaking = {
    ...files,
    read: (...given: Parameters<Files["read"]>) => {
      if (isBroken && given[0] === "mlp1") return Promise.reject(new Error("gone"));
      return files.read(...given);
    },
  };
  const streamed = streamedWeights(readsOf(stages, breaking), machine);
  const failing = streamed.run(order);
  await failing.of(0);
  await assert.rejects(failing.of(1), /gone/);
  isBroken = false;
  const run = streamed.run(order);
  await run.of(0);
  assert.equal((await run.of(1)).size, 1);
  await streamed.close();
  assert.equal(memory.now, 0);
});
