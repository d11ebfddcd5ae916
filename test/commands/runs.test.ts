// lowrank runs: which folders are runs, what their logs say they are, what they differ in; folders of strangers included.
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { differences, findRuns } from "../../src/commands/runs/runs.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { isLocked, lockFolder } from "../../src/platform/node/lock.ts";
import { printed } from "../helpers/program.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();

const time = (second: number) => new Date(Date.UTC(2030, 0, 1, 8, 0, second)).toISOString();
const prepared = {
  modules: 2,
  trainable: 100,
  parameters: 1000,
  train: { count: 3, tokens: 30, targets: 20 },
  eval: null,
};
const step = (at: number, loss: number) => ({
  type: "step",
  time: time(at),
  step: at,
  loss,
  learningRate: 0.1,
  gradNorm: 1,
  tokens: 50,
  tokensPerSecond: 100,
  seconds: 0.5,
  memoryBytes: null,
});
const started = { type: "start", time: time(0), step: 0, steps: 4 };
const done = (at: number, change: object = {}) => ({
  type: "done",
  time: time(59),
  step: at,
  stopped: false,
  early: false,
  result: at,
  seconds: 9,
  ...change,
});

function makeRun(name: string, options: object, rows: object[]): string {
  const folder = path.join(root, name);
  mkdirSync(folder, { recursive: true });
  const all = { base: "/models/tiny", data: "/data/a.jsonl", method: "lora", rank: 8, learningRate: 1e-3, ...options };
  writeFileSync(`${folder}/run.json`, JSON.stringify({ version: 1, options: all }));
  const log = [{ type: "run", time: time(0), lowrank: "1.0.0", options: all, prepared }, started, ...rows];
  writeFileSync(`${folder}/metrics.jsonl`, log.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return folder;
}

const finished = makeRun("a/finished", {}, [
  step(1, 5),
  { type: "eval", time: time(1), step: 1, loss: 4, perplexity: 50 },
  step(2, 4),
  { type: "eval", time: time(2), step: 2, loss: 4.5, perplexity: 90 },
  done(2, { early: true }),
]);
const crashed = makeRun("a/b/crashed", { rank: 16, schedule: "cosine" }, [step(1, 5), step(2, 4), step(3, 3)]);
const stopped = makeRun("stopped", {}, [step(1, 5), done(1, { stopped: true, result: null })]);
const failed = makeRun("failed", { method: "full" }, [
  step(1, 5),
  { type: "error", time: time(3), code: "train/non-finite", message: "loss is \u001b[31mNaN" },
]);
makeRun("node_modules/pkg/run", {}, []);
makeRun(".hidden/run", {}, []);
makeRun("a/finished/inner", {}, []);
makeRun("1/2/3/4/5/deep", {}, []);
symlinkSync(root, `${root}/a/link`);
mkdirSync(`${root}/no-run`);
writeFileSync(`${root}/no-run/run.json`, "[".repeat(100_000));
mkdirSync(`${root}/no-log`);
writeFileSync(`${root}/no-log/run.json`, JSON.stringify({ version: 1, options: { base: 5, rank: { a: "b" } } }));
writeFileSync(`${root}/file`, "");

const find = async (...folders: string[]) => (await findRuns(nodeFiles, folders, isLocked)).runs;

test("runs are found below a folder, each once, and nothing else", async () => {
  const runs = await find(root, `${root}/a`);
  assert.deepEqual(
    runs.map(({ folder, state }) => [path.relative(root, folder), state]),
    [
      ["a/b/crashed", "crashed"],
      ["a/finished", "finished"],
      ["failed", "failed"],
      ["no-log", "crashed"],
      ["stopped", "stopped"],
    ],
  );
  await assert.rejects(find(`${root}/nowhere`), { code: "file/missing" });
});

test("a run is recognized by its log", async () => {
  const [run] = await find(finished);
  assert.deepEqual(
    { ...run, options: null },
    {
      folder: finished,
      state: "finished",
      error: null,
      early: true,
      options: null,
      step: 2,
      steps: 4,
      loss: 4,
      bestEval: { step: 1, loss: 4 },
      accuracy: null,
      seconds: 1,
      tokensPerSecond: 100,
      examplesPerSecond: null,
      started: time(0),
      updated: time(59),
      trainable: 100,
    },
  );
  assert.equal((await find(crashed))[0]!.updated, time(3));
  assert.match((await find(failed))[0]!.error!, /^train\/non-finite: loss is/);
});

test("a run is running while its folder is locked", async () => {
  const lock = await lockFolder(crashed);
  assert.equal((await find(crashed))[0]!.state, "running");
  await lock.release();
  assert.equal((await find(crashed))[0]!.state, "crashed");
});

test("runs differ in the options that are not the same in all", async () => {
  const runs = await find(finished, crashed);
  assert.deepEqual(differences(runs), [
    { name: "rank", values: ["16", "8"] },
    { name: "schedule", values: ["cosine", undefined] },
  ]);
  assert.deepEqual(differences(await find(finished, stopped)), []);
});

test("a log with tens of thousands of starts is read in the time of its length", async () => {
  const trained = Array.from({ length: 15_000 }, (_, i) => step(i + 1, 3));
  const starts = Array.from({ length: 50_000 }, () => ({ ...started, step: 15_000 }));
  const folder = makeRun("many-starts", {}, [...trained, ...starts, done(15_000)]);
  const began = process.cpuUsage();
  const [run] = await find(folder);
  const seconds = process.cpuUsage(began).user / 1e6;
  assert.deepEqual([run!.state, run!.step, run!.seconds], ["finished", 15_000, 7500]);
  assert.ok(seconds < 10, `${seconds.toFixed(1)} s of processor time`);
});

test("a finished run is not taken for a crashed one, however long its log is", async () => {
  const folder = makeRun("long", {}, [step(1, 5)]);
  const log = `${folder}/metrics.jsonl`;
  truncateSync(log, 200 << 20);
  appendFileSync(log, `\n${JSON.stringify(step(4, 3))}\n${JSON.stringify(done(4))}\n`);
  const [run] = await find(folder);
  assert.deepEqual([run!.state, run!.step, run!.loss, run!.started], ["finished", 4, 3, time(0)]);
});

async function runs(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await printed("runs", ...args);
  assert.equal(status, 0, stderr);
  return stdout;
}

test("the command lists, compares and gives JSON; a stranger's texts can't steer the terminal", async () => {
  const list = await runs(root);
  assert.match(
    list,
    /crashed +crashed +3\/4 +3\.0000 +- +lora r16, lr 0\.001 +tiny +a\.jsonl +2s +100 tokens\/s +2030-01-01 08:00\n/,
  );
  assert.match(list, /finished +finished early +2\/4 +4\.0000 +4\.0000 @ 1 /);
  assert.match(list, /failed: train\/non-finite: loss is/);
  assert.ok(!list.includes("\u001b"));
  const compared = await runs(finished, crashed);
  assert.match(compared, /rank +16 +8\nschedule +cosine +-\n$/);
  assert.match(await runs("--compare", `${root}/a`), /rank +16 +8\n/);
  assert.match(await runs("--no-compare", finished, crashed), /^run +state/);
  assert.equal(JSON.parse(await runs("--json", stopped)).state, "stopped");
});
