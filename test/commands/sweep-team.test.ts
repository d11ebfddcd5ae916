// A sweep by several processes, here inside one: however many there are and however they are grouped, it is the sweep of one process.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { sweep as sweepOn } from "../../src/commands/sweep/sweep.ts";
import { agreed } from "../../src/distributed/exchange.ts";
import { LowrankError } from "../../src/errors.ts";
import { nodePlatform } from "../../src/node.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { Platform } from "../../src/platform/platform.ts";
import type { SweepGiven } from "../../src/sweep/options.ts";
import { readSweep, type SweepRecord } from "../../src/sweep/record.ts";
import { collect, only, refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { memoryTeam } from "../helpers/team.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
const settings = {
  ...{ base: `${fixtures}/tiny-llama`, data: `${fixtures}/tiny-e2e/eval.jsonl`, evalData: `${fixtures}/tiny-e2e/eval.jsonl` },
  ...{ batchSize: 4, threads: 1, date: "2026-01-01", steps: 8, minutes: 60 },
  ...{ learningRates: [1e-3, 1e-2, 1e30], ranks: [2], targets: ["all-linear"] },
};

/** Runs a sweep in so many processes; `change` is what a process has of its own. The events of each, when all have ended. */
async function sweepIn(processes: number, options: object, change: (rank: number) => Partial<Platform> = () => ({})) {
  const run = (team: ReturnType<typeof memoryTeam>[number]) =>
    collect(sweepOn(options as SweepGiven, { ...nodePlatform, team, ...change(team.rank) }));
  const runs = memoryTeam(processes).map(run);
  await Promise.allSettled(runs);
  return Promise.all(runs);
}

/** What a sweep has found, but for times. */
const found = ({ trials, rungs, ended, command }: SweepRecord, withLosses = true) => ({
  trials: trials.map(({ settings, losses, failure, trainable }) => ({
    ...{ settings, failure, trainable },
    losses: losses.map(({ step, loss }) => (withLosses ? [step, loss] : step)),
  })),
  ...{ rungs, ended, command },
});
const read = (folder: string) => readSweep(nodeFiles, folder);
const alone = sweepIn(1, { ...settings, output: `${root}/alone` }).then(() => read(`${root}/alone`));

test("three processes with a trial each find what one does, bit for bit", async () => {
  const output = `${root}/three`;
  const [first, ...others] = await sweepIn(3, { ...settings, output });
  assert.deepEqual(found(await read(output)), found(await alone));
  assert.deepEqual(others, [[], []]);
  const [plan] = only(first!, "plan");
  assert.deepEqual([plan!.groups, plan!.processes], [3, 1]);
  const begun = only(first!, "trial");
  assert.deepEqual(
    begun.slice(0, 3).map(({ number, count, together }) => [number, count, together]),
    [
      [1, 3, 3],
      [2, 3, 3],
      [3, 3, 3],
    ],
  );
  // The trial that diverges is reported with those beside it, and the rung is compared without it.
  assert.equal(only(first!, "failure").length, 1);
  assert.deepEqual(
    only(first!, "rung")[0]!.cells.map(({ loss }) => loss === null),
    [false, false, true],
  );
  assert.deepEqual(
    (await nodeFiles.list(output)).filter((name) => !name.startsWith("trial-")),
    ["sweep.json"],
  );
});

test("processes that do not see the folder, or do not divide into groups, are refused", async () => {
  const output = `${root}/blind`;
  const elsewhere = (path: string) => (path.endsWith("/.shared") ? `${root}/none` : path);
  const files = { ...nodeFiles, read: (path: string, ...rest: [number, number]) => nodeFiles.read(elsewhere(path), ...rest) };
  const error = await refused(
    () => sweepIn(3, { ...settings, output }, (rank) => ({ ...(rank === 2 && { files }) })),
    "sweep/shared",
    { subject: output },
  );
  assert.match(error.got!, /process 2 does not see/);
  assert.ok(!(await nodeFiles.exists(output)));
  for (const [processes, groupSize] of [
    [3, 2],
    [1, 2],
  ] as const)
    await refused(() => sweepIn(processes, { ...settings, output, groupSize }), "sweep/groups", { got: "2" });
  assert.ok(!(await nodeFiles.exists(output)));
});

test("where one of the processes of a trial has too little memory, all of them give it up", async () => {
  const facts = { subject: "memory", next: "Train fewer parameters." };
  const error = () => new LowrankError("train/memory", "the run needs more memory than there is", facts);
  const teams = memoryTeam(3);
  const all = teams.map((team) => agreed(team, "memory", async () => (team.rank === 1 ? Promise.reject(error()) : "enough")));
  await Promise.all(all.map((one) => refused(() => one, "train/memory", facts)));
  const fine = memoryTeam(2).map((team) => agreed(team, "memory", async () => team.rank));
  assert.deepEqual(await Promise.all(fine), [0, 1]);
});
