// A short fuzz of every reader, and proof that the fuzzer finds what it looks for. `npm run fuzz` is the long one.
// slow
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { type FuzzOptions, fuzz } from "../../fuzz/fuzz.ts";
import { inputOf } from "../../fuzz/run.ts";
import { targets } from "../../fuzz/targets.ts";
import { targets as faulty } from "../helpers/fuzz-faults.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { repository } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const save = temporaryFolder();

describe("every reader", () => {
  it("reads the good files that its damaged ones are made from", async () => {
    assert.ok(targets.length >= 13);
    for (const { name, inputs, read } of targets) {
      for (const input of inputs) {
        const files = memoryFiles(input);
        await assert.doesNotReject(read(files), name);
        assert.ok(files.reads.length > 0, `${name} reads nothing`);
      }
    }
  });

  it("takes or refuses 2,000 damaged files", async () => {
    const { accepted, refused, faults } = await fuzz({
      seed: 11,
      runs: 2000,
      targets: `${repository}fuzz/targets.ts`,
      threads: 1,
    });
    assert.deepEqual(faults, []);
    assert.equal(accepted + refused, 2000);
    assert.ok(accepted > 100 && refused > 1000, `${accepted} accepted, ${refused} refused`);
  });
});

describe("the fuzzer", () => {
  const run = (only: string, change: Partial<FuzzOptions> = {}) =>
    fuzz({
      seed: 3,
      runs: 60,
      only: [only],
      targets: `${repository}test/helpers/fuzz-faults.ts`,
      threads: 1,
      runLimitMs: 1000,
      ...change,
    });

  it("damages the same way for the same seed and run, another way for others", () => {
    const [target] = targets;
    assert.deepEqual(inputOf(target!, 1, 5), inputOf(target!, 1, 5));
    assert.notDeepEqual(inputOf(target!, 1, 5), inputOf(target!, 1, 6));
    assert.notDeepEqual(inputOf(target!, 1, 5), inputOf(target!, 2, 5));
  });

  it("finds nothing in a sound reader", async () => {
    const { accepted, refused, faults } = await run("sound");
    assert.deepEqual(faults, []);
    assert.ok(accepted > 0 && refused > 0 && accepted + refused === 60);
  });

  it("finds a crash once, saves its input, and repeats it from its number", async () => {
    const { faults } = await run("crash", { save });
    assert.equal(faults.length, 1);
    const [{ what, run: number }] = faults as [(typeof faults)[0]];
    assert.match(what, /^TypeError/);
    const saved = readFileSync(path.join(save, `crash-3-${number}`, "f"));
    assert.equal(saved.length % 5, 0);
    const target = faulty.find(({ name }) => name === "crash")!;
    assert.deepEqual(new Uint8Array(saved), inputOf(target, 3, number)["f"]);
    assert.equal((await run("crash", { first: number, runs: 1 })).faults.length, 1);
  });

  it("finds an error without a next step", async () => {
    assert.match((await run("no-next-step")).faults[0]!.what, /without a next step/);
  });

  for (const [name, pattern] of [
    ["hang", /^a hang/],
    ["memory", /^the thread died.*memory/],
  ] as const) {
    it(`finds ${name === "hang" ? "a hang" : "memory without end"}, and goes on behind it`, async () => {
      const only = faulty.find((target) => target.name === name)!;
      const bad = Array.from({ length: 200 }, (_, n) => n).find((n) => inputOf(only, 3, n)["f"]!.length % 7 === 0)!;
      const { faults, accepted } = await run(name, { first: bad, runs: 3, save, runLimitMs: name === "hang" ? 1000 : 30_000 });
      assert.deepEqual(
        faults.map((fault) => fault.run),
        [bad],
      );
      assert.match(faults[0]!.what, pattern);
      assert.ok(accepted >= 1 && existsSync(path.join(save, `${name}-3-${bad}`, "f")));
    });
  }
});
