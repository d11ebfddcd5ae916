// lowrank sweep in the processes of an MPI job: the trials and the winner of one process, and an end of all where one fails.
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import type { SweepRecord } from "../../src/sweep/record.ts";
import { lowrank } from "../helpers/program.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { type Flavour, mpirun, testEach } from "./harness.ts";

const fixtures = "test/fixtures/tiny-e2e";
const root = temporaryFolder();
const common = [
  ...[
    "sweep",
    "--base",
    "test/fixtures/tiny-llama",
    "--data",
    `${fixtures}/train.jsonl`,
    "--eval-data",
    `${fixtures}/eval.jsonl`,
  ],
  ...["--batch-size", "4", "--threads", "1", "--steps", "8", "--date", "2026-01-01", "--targets", "all-linear", "--ranks", "2"],
];
const settings = [...common, "--learning-rates", "1e-3,1e-2,1e30", "--minutes", "60"];
const sweepIn = (flavour: Flavour, processes: number, args: readonly string[]) =>
  mpirun(flavour, processes, "src/cli/main.ts", args);
const read = (folder: string): SweepRecord => JSON.parse(readFileSync(`${folder}/sweep.json`, "utf8"));

/** What a sweep has found, but for times. */
const found = ({ trials, rungs, ended, command }: SweepRecord) => ({
  trials: trials.map(({ settings, losses, failure }) => [settings, losses.map(({ step, loss }) => [step, loss]), failure]),
  ...{ rungs, ended, command },
});

const alone = lowrank([...settings, "--output", `${root}/alone`]).then(({ status, stderr }) => {
  assert.equal(status, 0, stderr);
  return read(`${root}/alone`);
});

testEach("processes with a trial each find what one does, and one of them speaks", async (flavour) => {
  const output = `${root}/${flavour}`;
  const { code, stdout, stderr } = await sweepIn(flavour, 3, [...settings, "--output", output, "--json"]);
  assert.equal(code, 0, stdout + stderr);
  assert.deepEqual(found(read(output)), found(await alone));
  const events = stdout.split(/\r?\n/).filter((line) => line.startsWith("{"));
  assert.equal(events.filter((line) => line.startsWith('{"type":"done"')).length, 1);
  assert.equal(stderr.split("report: ").length, 2, stderr);
  assert.ok(existsSync(`${output}/report.html`));
});

testEach("a sweep whose time was over goes on in another number of processes", async (flavour) => {
  const output = `${root}/${flavour}-timed`;
  const grid = [...common, "--learning-rates", "1e-3,1e-2", "--grid", "--output", output];
  const first = await sweepIn(flavour, 2, [...grid, "--minutes", "0.001"]);
  assert.equal(first.code, 0, first.stdout + first.stderr);
  assert.equal(read(output).ended, "budget");
  const more = ["sweep", "--resume", "--output", output, "--minutes", "60", "--group-size", "2"];
  const second = await sweepIn(flavour, 4, more);
  assert.equal(second.code, 0, second.stdout + second.stderr);
  assert.match(second.stdout, /2 trials at a time, each in 2 processes/);
  const { trials, ended } = read(output);
  assert.deepEqual([ended, trials.map(({ losses }) => losses.at(-1)!.step)], ["finished", [8, 8]]);
});

testEach("a trial that fails otherwise than by its loss ends all processes, by its own words", async (flavour) => {
  await alone;
  const output = `${root}/${flavour}-linked`;
  const elsewhere = `${output}-elsewhere`;
  await sweepIn(flavour, 2, [...common, "--learning-rates", "1e-3,1e-2", "--grid", "--output", output]);
  const kept = read(output);
  for (const trial of kept.trials) trial.losses = [];
  writeFileSync(`${output}/sweep.json`, JSON.stringify(kept));
  rmSync(`${output}/trial-02`, { recursive: true });
  symlinkSync(elsewhere, `${output}/trial-02`);
  const { code, stderr, seconds } = await sweepIn(flavour, 2, ["sweep", "--resume", "--output", output]);
  assert.ok(code !== 0 && code !== null, `status ${code}`);
  assert.ok(seconds < 40, `it took ${seconds} s`);
  assert.match(stderr, /process 1 of 2/);
  assert.match(stderr, /trial-02/);
  assert.ok(stderr.includes(`Resume with: npx lowrank sweep --resume --output ${output}`), stderr);
});

testEach("groups wait for each other longer than the limit of a call", async (flavour) => {
  const { code, stdout, stderr } = await mpirun(flavour, 3, "test/mpi/programs/communicator.ts", ["late", "1"]);
  assert.equal(code, 0, stdout + stderr);
});
