// sweep.json: what is read of it, and that any other content is refused by one error, whoever wrote it.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { outcomeOf } from "../../src/sweep/outcome.ts";
import {
  cellsOf,
  meanAt,
  newRecord,
  ranked,
  readSweep,
  type SweepRecord,
  type Trial,
  trialName,
  writeSweep,
} from "../../src/sweep/record.ts";
import type { Settings } from "../../src/sweep/space.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const settings = (learningRate: number, rank = 8): Settings => {
  return { method: "lora", rank, alpha: 2 * rank, targets: "all-linear", learningRate };
};
const trial = (own: Settings, losses: Record<number, number>, change: Partial<Trial> = {}): Trial => ({
  settings: own,
  seed: 0,
  trainable: 10,
  losses: Object.entries(losses).map(([step, loss]) => ({ step: Number(step), loss, seconds: 1 })),
  stepSeconds: 0.1,
  failure: null,
  ...change,
});
const kept = (...trials: Trial[]): SweepRecord => ({
  ...newRecord({ base: "b" }),
  measured: { open: 1, step: 1, evaluation: 1, steps: 8 },
  plan: { steps: 8, rungs: [2, 4, 8], counts: [3], seconds: [30] },
  trials,
  rungs: [{ phase: "learning rate", step: 2, trials: trials.map((_, i) => i) }],
});

const record = kept(
  trial(settings(1e-4), { 2: 3 }),
  trial(settings(1e-3), { 2: 2.5, 4: 2.2, 8: 2 }),
  trial(settings(1e-2), { 2: 2.4, 4: 2.1, 8: 2.06 }),
  trial(settings(1e-1), {}, { failure: "loss is NaN at step 1" }),
);

describe("a record", () => {
  it("is read as it was written", async () => {
    const files = memoryFiles({});
    await writeSweep(files, "s", record);
    assert.deepEqual(await readSweep(files, "s"), record);
  });

  /** The record with another value at a path. */
  function changed(path: string, value: unknown): string {
    const json: unknown = JSON.parse(JSON.stringify(record));
    const keys = path.split(".");
    const place = keys.slice(0, -1).reduce((at, key) => (at as Record<string, unknown>)[key], json);
    (place as Record<string, unknown>)[keys.at(-1)!] = value;
    return JSON.stringify(json);
  }
  const [first] = record.trials;
  const hostile: Record<string, [json: string, code: string]> = {
    "no JSON": ["{", "json/syntax"],
    "no object": ["[]", "json/not-object"],
    "a later version": [changed("version", 2), "file/newer"],
    "no version": [changed("version", undefined), "sweep/record"],
    "a trial that is none": [changed("trials.0", "../../etc"), "sweep/record"],
    "a method that is none": [changed("trials.0.settings.method", "__proto__"), "sweep/record"],
    "a rank that is none": [changed("trials.0.settings.rank", 1e99), "sweep/record"],
    "a loss that is none": [changed("trials.0.losses.0.loss", "0"), "sweep/record"],
    "a rung of trials that are not there": [changed("rungs.0.trials.0", 4), "sweep/record"],
    "a negative trial": [changed("rungs.0.trials.0", -1), "sweep/record"],
    "the same trial twice": [changed("trials.1", first), "sweep/record"],
    "a field of its own": [changed("folder", "/"), "sweep/record"],
    "a plan without rungs": [changed("plan.rungs", []), "sweep/record"],
    "too many trials": [changed("trials", new Array(10_001).fill(first)), "sweep/record"],
  };
  for (const [name, [json, code]] of Object.entries(hostile))
    it(`is refused with ${name}`, async () => {
      await refused(() => readSweep(memoryFiles({ "s/sweep.json": json }), "s"), code, { subject: "s/sweep.json" });
    });
});

describe("what won", () => {
  it("has the lowest loss at the last step that any was trained to", () => {
    assert.deepEqual(
      ranked(record).map(({ cell, step }) => [cell.trials[0], step]),
      [
        [1, 8],
        [2, 8],
        [0, 2],
      ],
    );
    const { winner, runnerUp, why } = outcomeOf(record);
    assert.deepEqual([winner.folder, winner.loss, runnerUp!.folder], ["trial-02", 2, trialName(2)]);
    assert.match(
      why[1]!,
      /^The runner-up is 0\.0600 \(3\.0 %\) above it: rank 8, alpha 16, all-linear, learning rate 0\.01 \(trial-03\)\.$/,
    );
    assert.deepEqual(why.slice(2), ["Training diverged once, at learning rates from 0.1."]);
  });

  it("is compared by the mean over seeds", () => {
    const two = kept(
      trial(settings(1e-3), { 8: 2 }),
      trial(settings(1e-3), { 8: 3 }, { seed: 1 }),
      trial(settings(1e-2), { 8: 2.4 }),
      trial(settings(1e-2), { 8: 2.5 }, { seed: 1 }),
    );
    assert.deepEqual(
      cellsOf(two).map((cell) => meanAt(two, cell, 8)),
      [2.5, 2.45],
    );
    assert.deepEqual(outcomeOf(two).winner.losses, [2.4, 2.5]);
  });

  it("at the border of a range suggests a wider one", () => {
    const { why } = outcomeOf(kept(trial(settings(1e-3, 32), { 8: 2 }), trial(settings(1e-4, 8), { 8: 3 })));
    assert.match(why.join("\n"), /Its learning rate is the highest that was tried: .*--learning-rates/);
    assert.match(why.join("\n"), /Its rank is the highest that was tried: .*--ranks/);
  });

  it("is nothing where no trial has a loss", async () => {
    await refused(() => outcomeOf(kept(trial(settings(1), {}, { failure: "loss is NaN at step 1" }))), "sweep/diverged", {
      got: /NaN/,
    });
  });
});
