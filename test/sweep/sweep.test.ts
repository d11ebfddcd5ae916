// A sweep on a loss surface: what it compares and keeps, resuming after a kill, the time that it keeps, several processes.
// test/commands/sweep.test.ts trains a real model.
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import path from "node:path";
import { describe, it, mock, test } from "node:test";
import { type SweepEvent, sweep as sweepWith } from "../../src/commands/sweep/sweep.ts";
import { nodePlatform } from "../../src/node.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { SweepGiven } from "../../src/sweep/options.ts";
import { meanAt, ranked, readSweep, type SweepRecord } from "../../src/sweep/record.ts";
import { collect, only, refused } from "../helpers/assert.ts";
import { DIVERGES, surfaceTraining, type Times } from "../helpers/loss-surface.ts";
import { fixtures } from "../helpers/repository.ts";
import { memoryTeam } from "../helpers/team.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
const at = (name: string) => path.join(root, name);

const common = { base: `${fixtures}/tiny-llama`, data: `${fixtures}/tiny-e2e/train.jsonl`, date: "2026-01-01" };
const small = { ...common, steps: 8, learningRates: [1e-3, 1e-2, DIVERGES], ranks: [2, 8], targets: ["all-linear"], minutes: 60 };
const read = (folder: string) => readSweep(nodeFiles, folder);

const usual: Times = { open: 1, step: 0.1, evaluation: 0.5 };
const train = surfaceTraining(
  () => usual,
  () => {},
);
const sweep = (options: object) => sweepWith(options as SweepGiven, nodePlatform, train);

/** The result of a sweep, without the time that it took. */
const found = ({ trials, rungs, ended, command }: SweepRecord) => ({
  trials: trials.map(({ settings, losses, failure, trainable }) => ({
    ...{ settings, failure, trainable },
    losses: losses.map(({ step, loss }) => [step, loss]),
  })),
  ...{ rungs, ended, command },
});

describe("a sweep", async () => {
  const output = at("sweep");
  const events: SweepEvent[] = [];
  const snapshots: string[] = [];
  // Copies of the folder while the sweep is at work are what a kill leaves: at every rung, and in the middle of trials.
  for await (const event of sweep({ ...small, output })) {
    events.push(event);
    const steps = only(events, "step").length;
    if (event.type !== "rung" && event.type !== "plan" && !(event.type === "step" && steps % 7 === 0)) continue;
    const copy = at(`snapshot-${snapshots.length}`);
    cpSync(output, copy, { recursive: true });
    for (const name of readdirSync(copy, { recursive: true, encoding: "utf8" }))
      if (/\.lowrank\.lock$/.test(name)) rmSync(path.join(copy, name), { recursive: true });
    snapshots.push(copy);
    if (snapshots.length === 3) cpSync(copy, at("linked"), { recursive: true });
  }
  const record = await read(output);
  const [done] = only(events, "done");

  it("plans, trains by phases, and drops trials that diverge", () => {
    assert.deepEqual(only(events, "plan")[0]!.plan.rungs, [2, 4, 8]);
    assert.deepEqual(
      [...new Set(record.rungs.map(({ phase }) => phase))],
      ["learning rate", "rank, targets and method", "learning rate again"],
    );
    const [diverged] = only(events, "failure");
    assert.equal(record.trials[diverged!.trial]!.settings.learningRate, DIVERGES);
    assert.match(diverged!.message, /at step/);
    assert.equal(record.ended, "finished");
  });

  it("is won by the lowest evaluation loss", () => {
    const losses = record.trials.flatMap(({ losses: own }) => own.flatMap(({ step, loss }) => (step === 8 ? loss : [])));
    assert.ok(losses.length >= 4, losses.join(" "));
    assert.equal(done!.winner.loss, Math.min(...losses));
    assert.deepEqual([done!.winner.settings.rank, done!.winner.settings.learningRate], [8, 1e-2], "the surface's minimum");
    assert.equal(done!.runnerUp!.loss, [...losses].sort((a, b) => a - b)[1]);
    for (const { phase, step, cells } of only(events, "rung")) {
      const known = cells.flatMap(({ loss }) => loss ?? []);
      assert.deepEqual(
        known,
        [...known].sort((a, b) => a - b),
        `${phase}, step ${step}`,
      );
    }
  });

  it("keeps nothing of the measurement", () => {
    assert.deepEqual(
      readdirSync(output).filter((name) => !name.startsWith("trial-")),
      ["sweep.json"],
    );
  });

  it("resumes to the same result, wherever it was killed", async () => {
    assert.ok(snapshots.length >= 10, String(snapshots.length));
    for (const copy of snapshots) {
      const more = await collect(sweep({ output: copy, resume: true }));
      assert.deepEqual(found(await read(copy)), found(record), copy);
      assert.deepEqual(only(more, "done")[0]!.winner, done!.winner);
    }
  });

  it("that is finished is not trained again, and another one has another folder", async () => {
    const again = await collect(sweep({ ...small, output, resume: true }));
    assert.deepEqual([only(again, "step").length, only(again, "done")[0]!.winner], [0, done!.winner]);
    await refused(() => collect(sweep({ ...small, output })), "sweep/output", { next: /--resume --output/ });
    await refused(() => collect(sweep({ ...small, steps: 9, output, resume: true })), "sweep/output", {
      expected: "steps 8",
      got: "steps 9",
    });
    await refused(() => collect(sweep({ ...small, output: `${output}/trial-01` })), "sweep/output", /other files/);
    await refused(() => collect(sweep({ output: at("nothing"), resume: true })), "sweep/output", /no sweep to resume/);
    await refused(() => collect(sweep({ ...small, rank: 4, output: at("wrong") })), "train/option", { subject: "rank" });
    assert.ok(!existsSync(at("wrong")));
  });

  it("writes nowhere else", async () => {
    const copy = at("linked");
    const elsewhere = at("elsewhere");
    renameSync(`${copy}/trial-01`, elsewhere);
    symlinkSync(elsewhere, `${copy}/trial-01`);
    await refused(() => collect(sweep({ output: copy, resume: true })), "file/link");
  });
});

it("a sweep that is stopped says how to resume it, and resumes to the same result", async () => {
  const output = at("stopped");
  const stop = new AbortController();
  const events: SweepEvent[] = [];
  for await (const event of sweep({ ...small, output, signal: stop.signal })) {
    events.push(event);
    if (only(events, "step").length === 5) stop.abort();
  }
  assert.equal(only(events, "step").length, 5);
  assert.equal((await read(output)).ended, null);
  await collect(sweep({ output, resume: true }));
  assert.deepEqual(found(await read(output)), found(await read(at("sweep"))));
});

it("a grid trains every combination to the end, with means over seeds", async () => {
  const output = at("grid");
  const space = { ranks: [2, 4], learningRates: [1e-3, 1e-2], methods: ["lora", "full"], seeds: [0, 1] };
  await collect(sweep({ ...common, ...space, steps: 4, targets: ["q_proj,v_proj"], grid: true, output }));
  const record = await read(output);
  assert.equal(record.trials.length, 2 * (2 * 2 + 2));
  const [best] = ranked(record);
  assert.equal(best!.cell.settings.method, "full");
  for (const { cell } of ranked(record)) {
    const losses = cell.trials.map((index) => record.trials[index]!.losses.at(-1)!.loss);
    assert.equal(meanAt(record, cell, 4), (losses[0]! + losses[1]!) / 2);
  }
});

describe("the time of a sweep", () => {
  /** Sweeps by a clock that only training advances; `factor` says how much slower it is once the plan is made. */
  async function timed(output: string, options: object, factor: number) {
    let [now, slower] = [0, 1];
    const clock = mock.method(performance, "now", () => now);
    const times = () => ({ open: slower * usual.open, step: slower * usual.step, evaluation: slower * usual.evaluation });
    const training = surfaceTraining(times, (seconds) => {
      now += 1000 * seconds;
    });
    const events: SweepEvent[] = [];
    try {
      for await (const event of sweepWith({ ...options, output } as SweepGiven, nodePlatform, training)) {
        events.push(event);
        if (event.type === "plan") slower = factor;
      }
    } finally {
      clock.mock.restore();
    }
    return { events, record: await read(output) };
  }
  const wanted = { ...common, epochs: 3, learningRates: [1e-3, 1e-2, 3e-2], ranks: [2, 8], targets: ["all-linear"], minutes: 1 };

  it("is kept by the plan where steps take as long as measured", async () => {
    const { events, record } = await timed(at("timed"), wanted, 1);
    const [{ plan }] = only(events, "plan") as [Extract<SweepEvent, { type: "plan" }>];
    assert.ok(plan.steps < 120 && plan.steps >= 32, String(plan.steps));
    assert.equal(record.ended, "finished");
    assert.ok(record.seconds <= 60 && record.seconds > 30, String(record.seconds));
  });

  it("is kept by fewer trials where they take longer, of which the best is trained to its end", async () => {
    const { events, record } = await timed(at("slower"), wanted, 2);
    const [done] = only(events, "done");
    assert.deepEqual([done!.ended, done!.winner.step], ["finished", done!.steps]);
    const begun = record.trials.filter(({ losses }) => losses.length > 0);
    assert.ok(begun.length >= 2 && begun.length < 6, String(begun.length));
    // A trial that has begun opens its session and ends its step.
    assert.ok(record.seconds <= 60 + 2 * (usual.open + usual.step + usual.evaluation), String(record.seconds));
  });

  it("is kept by an end where there is none for another trial, and more of it takes the sweep on", async () => {
    const output = at("slowest");
    const { record } = await timed(output, wanted, 40);
    assert.equal(record.ended, "budget");
    const { events } = await timed(output, { resume: true, minutes: 60 }, 1);
    const [done] = only(events, "done");
    assert.deepEqual([done!.ended, done!.winner.step], ["finished", done!.steps]);
  });

  it("counts in every group of processes, and more of it takes the sweep on", async () => {
    const output = at("timed-groups");
    const options = { ...small, output, steps: undefined, epochs: 0.4, grid: true, minutes: 0.0001 };
    const [events] = await sweepIn(2, options);
    assert.equal((await read(output)).ended, "budget");
    assert.equal(only(events!, "stopped").length + only(events!, "done").length, 1);
    await sweepIn(2, { output, resume: true, minutes: 60 });
    const { trials, ended } = await read(output);
    assert.equal(ended, "finished");
    assert.ok(trials.every(({ losses, failure }) => losses.length > 0 || failure !== null));
  });
});

/** Runs a sweep in so many processes. The events of each, when all have ended. */
async function sweepIn(processes: number, options: object) {
  const runs = memoryTeam(processes).map((team) => collect(sweepWith(options as SweepGiven, { ...nodePlatform, team }, train)));
  await Promise.allSettled(runs);
  return Promise.all(runs);
}

for (const [processes, groupSize] of [
  [3, 1],
  [4, 2],
] as const)
  test(`${processes} processes in groups of ${groupSize} find what one process finds`, async () => {
    const [alone, output] = [at(`alone-${processes}`), at(`groups-${processes}`)];
    await collect(sweep({ ...small, output: alone }));
    const [first, ...others] = await sweepIn(processes, { ...small, output, groupSize });
    assert.deepEqual(found(await read(output)), found(await read(alone)));
    assert.ok(others.every((events) => events.length === 0));
    const [plan] = only(first!, "plan");
    assert.deepEqual([plan!.groups, plan!.processes], [processes / groupSize, groupSize]);
  });

test("a sweep that is stopped is resumed by another number of processes", async () => {
  const output = at("stopped-groups");
  for (const [processes, groupSize, steps] of [
    [2, 1, 5],
    [4, 2, 3],
  ] as const) {
    // The signal reaches all processes, as a launcher passes it on.
    const stop = new AbortController();
    const options = { ...small, output, groupSize, signal: stop.signal, resume: processes > 2 };
    const events: SweepEvent[] = [];
    await Promise.all(
      memoryTeam(processes).map(async (team) => {
        for await (const event of sweepWith(options as SweepGiven, { ...nodePlatform, team }, train)) {
          events.push(event);
          if (only(events, "step").length === steps) stop.abort();
        }
      }),
    );
    assert.ok(only(events, "step").length <= steps + 1);
    assert.equal((await read(output)).ended, null);
  }
  await sweepIn(3, { output, resume: true });
  assert.deepEqual(found(await read(output)), found(await read(at("sweep"))));
});

test("a sweep that one process stops while a step is measured says so, and keeps its record", async () => {
  const output = at("early");
  const stop = new AbortController();
  const [first] = await Promise.all(
    memoryTeam(2).map(async (team) => {
      const events: SweepEvent[] = [];
      const options = { ...small, output, ...(team.rank === 1 && { signal: stop.signal }) };
      if (team.rank === 1) stop.abort();
      for await (const event of sweepWith(options as SweepGiven, { ...nodePlatform, team }, train)) events.push(event);
      return events;
    }),
  );
  assert.equal(first!.at(-1)!.type, "stopped");
  assert.equal((await read(output)).measured, null);
});
