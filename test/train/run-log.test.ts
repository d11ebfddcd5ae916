// metrics.jsonl: what is logged comes back, once a step however often the run went on, and whatever else is in the file.
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { logEvents, METRICS_NAME, openRunLog, readMetrics } from "../../src/train/run-log.ts";
import { type TrainEvent, train } from "../../src/train/trainer.ts";
import { collect } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { toyRun } from "../helpers/toy.ts";

const root = temporaryFolder();
let folders = 0;
const fresh = (): string => {
  const folder = path.join(root, `run-${folders++}`);
  mkdirSync(folder);
  return folder;
};
const metricsOf = (folder: string) => readMetrics(nodeFiles, folder).then((found) => found!);
const fileOf = (folder: string) => path.join(folder, METRICS_NAME);

const step = (at: number, loss: number) => ({
  type: "step" as const,
  step: at,
  loss,
  learningRate: 0.1,
  gradNorm: 1,
  tokens: 10,
  tokensPerSecond: 100,
  seconds: 0.1,
  etaSeconds: 5,
  memoryBytes: null,
});
const start = (at: number, steps: number) => ({ type: "start" as const, step: at, steps, parameters: 3, resumedFrom: null });
const done = (at: number): TrainEvent => ({
  type: "done",
  step: at,
  stopped: false,
  early: false,
  best: null,
  result: at,
  seconds: 2,
  folder: "x",
});

async function log(folder: string, events: TrainEvent[], error?: Error): Promise<void> {
  async function* given() {
    yield* events;
    if (error) throw error;
  }
  const open = await openRunLog(nodeFiles, folder);
  const passed = await collect(logEvents(open, given()));
  assert.deepEqual(passed, events);
}

test("events of a training come back with their time", async () => {
  const folder = fresh();
  const before = Date.now();
  const events = await collect(logEvents(await openRunLog(nodeFiles, folder), train(toyRun({ folder }))));
  const metrics = await metricsOf(folder);
  const steps = events.filter((event) => event.type === "step");
  assert.deepEqual(
    metrics.steps.map(({ time: _, ...row }) => row),
    steps.map(({ etaSeconds: _, ...row }) => row),
  );
  const evals = events.filter((event) => event.type === "eval");
  assert.deepEqual(
    metrics.evals.map(({ time: _, ...row }) => row),
    evals,
  );
  assert.deepEqual([metrics.start!.step, metrics.start!.steps, metrics.skipped, metrics.cut], [0, 6, 0, false]);
  assert.deepEqual(
    metrics.checkpoints.map((row) => row.step),
    events.filter((event) => event.type === "checkpoint").map((event) => event.step),
  );
  assert.ok(metrics.end?.type === "done" && !metrics.end.stopped);
  for (const { time } of metrics.steps) assert.ok(Date.parse(time) >= before && Date.parse(time) <= Date.now(), time);
});

test("steps that are trained again count once, with what they were the last time", async () => {
  const folder = fresh();
  await log(folder, [start(0, 4), step(1, 5), step(2, 4), step(3, 3)]);
  assert.equal((await metricsOf(folder)).end, null, "a run that said nothing at its end");
  await log(folder, [start(1, 4), step(2, 4.5)]);
  const half = await metricsOf(folder);
  assert.deepEqual(
    half.steps.map(({ step, loss }) => [step, loss]),
    [
      [1, 5],
      [2, 4.5],
    ],
    "step 3 was before the crash only",
  );
  await log(folder, [start(2, 4), step(3, 3), step(4, 2), done(4)]);
  const whole = await metricsOf(folder);
  assert.deepEqual(
    whole.steps.map(({ loss }) => loss),
    [5, 4.5, 3, 2],
  );
  assert.equal(whole.end?.type, "done");
});

test("a line torn by a crash is passed over and closed before the next one", async () => {
  const folder = fresh();
  await log(folder, [start(0, 4), step(1, 5), step(2, 4)]);
  const text = readFileSync(fileOf(folder), "utf8");
  writeFileSync(fileOf(folder), text.slice(0, -20));
  const torn = await metricsOf(folder);
  assert.deepEqual([torn.steps.length, torn.skipped], [1, 1]);
  await log(folder, [start(1, 4), step(2, 3), done(2)]);
  const healed = await metricsOf(folder);
  assert.deepEqual(
    healed.steps.map(({ loss }) => loss),
    [5, 3],
  );
  assert.equal(healed.skipped, 1);
  assert.equal(healed.end?.type, "done");
});

test("a failure is logged and thrown on", async () => {
  const folder = fresh();
  await assert.rejects(log(folder, [start(0, 4)], new LowrankError("train/non-finite", "loss is NaN")), {
    code: "train/non-finite",
  });
  const { end } = await metricsOf(folder);
  assert.ok(end?.type === "error" && end.code === "train/non-finite" && end.message === "loss is NaN");
});

test("what is logged is on the disk after a flush, and not before it is worth a write", async () => {
  const folder = fresh();
  let appended = 0;
  const append = (file: string, bytes: Uint8Array) => {
    appended++;
    return nodeFiles.append(file, bytes);
  };
  const open = await openRunLog({ ...nodeFiles, append }, folder);
  for (let i = 0; i < 50; i++) await open.add({ type: "checkpoint", step: i });
  assert.ok(appended <= 2, `${appended} writes for 50 rows`);
  await open.flush();
  assert.equal((await metricsOf(folder)).checkpoints.length, 50);
  for (let i = 0; i < 4000; i++) await open.add({ type: "checkpoint", step: i });
  assert.ok(appended >= 4, "memory grows");
});

test("whatever a stranger's log holds, rows that can be read are read", async () => {
  const folder = fresh();
  assert.equal(await readMetrics(nodeFiles, folder), null);
  await log(folder, [start(0, 4), step(1, 5)]);
  const time = new Date().toISOString();
  const bad = [
    "",
    "null",
    "[]",
    "{}",
    '{"type":"step"}',
    `{"type":"step","time":"${time}","step":-1,"loss":1}`,
    '{"type":"toString"}',
    "[".repeat(200_000),
    "x".repeat((1 << 20) + 1),
    "\u0000\u0001",
    "y".repeat(3 << 20),
  ];
  appendFileSync(fileOf(folder), `${bad.join("\n")}\r\n`);
  appendFileSync(fileOf(folder), Buffer.from([0xff, 0xfe, 0x0a]));
  const huge = { ...step(2, 4), type: "step", time, tokensPerSecond: null, memoryBytes: 1e300 };
  appendFileSync(
    fileOf(folder),
    `${JSON.stringify(huge)}\r\n${JSON.stringify({ type: "done", time, step: 2, stopped: false, early: false, result: 2, seconds: 1 })}`,
  );
  const metrics = await metricsOf(folder);
  assert.deepEqual(
    metrics.steps.map((row) => row.step),
    [1, 2],
  );
  assert.equal(metrics.skipped, bad.length - 1 + 1);
  assert.equal(metrics.end?.type, "done", "the last line needs no end");
});
