// metrics.jsonl: what is logged comes back, once a step however often the run went on, and whatever else is in the file.
import assert from "node:assert/strict";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { logEvents, METRICS_NAME, openRunLog, readMetrics } from "../../src/train/run-log.ts";
import { type TrainEvent, train } from "../../src/train/trainer.ts";
import { collect } from "../helpers/assert.ts";
import { slow } from "../helpers/slow.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";
import { toyRun } from "../helpers/toy.ts";

const fresh = freshFolders();
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
  assert.deepEqual([metrics.start!.step, metrics.start!.steps, metrics.skipped], [0, 6, 0]);
  assert.equal(metrics.bytes.read, metrics.bytes.size);
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

/** A log of a run of `steps` steps, an evaluation and a checkpoint every thousand, that is made as it is read. */
function endless(steps: number) {
  const width = 256;
  const time = new Date(0).toISOString();
  const best = { step: 7_000, loss: 0.5 };
  const rowAt = (i: number): object => {
    if (i === 0) return { type: "start", time, step: 0, steps };
    if (i > steps) return { ...done(steps), time, best };
    if (i % 1000 === 1 && i > 1000) return { type: "checkpoint", time, step: i, best };
    return { ...step(i, 1 + 1 / i), time };
  };
  const size = (steps + 2) * width;
  let read = 0;
  const files: Files = {
    ...nodeFiles,
    exists: async () => true,
    size: async () => size,
    read: async (_, offset, length) => {
      read += length;
      const first = Math.floor(offset / width);
      const rows = Array.from(
        { length: Math.ceil((offset + length) / width) - first },
        (_, i) => `${JSON.stringify(rowAt(first + i)).padEnd(width - 1)}\n`,
      );
      return new TextEncoder().encode(rows.join("")).subarray(offset - first * width, offset - first * width + length);
    },
  };
  return { files, size, best, bytesRead: () => read };
}

test("of a log of any length the beginning and the end are seen, the steps between them evenly, in little memory", async () => {
  const steps = 20_000_000;
  const { files, size, best, bytesRead } = endless(steps);
  const limit = 2 << 20;
  const metrics = (await readMetrics(files, "run", limit))!;
  assert.ok(size > 5e9 && bytesRead() <= limit, `${bytesRead()} bytes are read`);
  assert.deepEqual(metrics.bytes, { size, read: bytesRead() });
  assert.ok(metrics.end?.type === "done" && metrics.end.step === steps, "a finished run is seen to be finished");
  assert.deepEqual([metrics.start!.steps, metrics.steps[0]!.step, metrics.steps.at(-1)!.step], [steps, 1, steps]);
  assert.deepEqual(metrics.bestEval, best, "the best evaluation is known from the rows after it");
  const gaps = metrics.steps.slice(1).map((row, i) => row.step - metrics.steps[i]!.step);
  assert.ok(Math.max(...gaps) < steps / 50, `a gap of ${Math.max(...gaps)} steps`);
  const seconds = metrics.steps.reduce((sum, row) => sum + row.seconds, 0);
  assert.ok(Math.abs(seconds / (0.1 * steps) - 1) < 0.01, `${seconds} s for ${steps} steps of 0.1 s`);
  assert.equal(metrics.skipped, 0);
});

test("of more steps than are kept, neighbours become one, and the sums stay", slow, async () => {
  const folder = fresh();
  const steps = 45_000;
  const rows = Array.from({ length: steps }, (_, i) =>
    JSON.stringify({ ...step(i + 1, 1 + (i % 7)), time: "t", memoryBytes: i }),
  );
  writeFileSync(fileOf(folder), `${JSON.stringify({ ...start(0, steps), time: "t" })}\n${rows.join("\n")}\n`);
  const metrics = await metricsOf(folder);
  assert.ok(metrics.steps.length > 5_000 && metrics.steps.length <= 20_000, `${metrics.steps.length} rows`);
  assert.deepEqual([metrics.steps[0]!.step, metrics.steps.at(-1)!.step], [1, steps]);
  assert.equal(
    metrics.steps.reduce((sum, { tokens }) => sum + tokens, 0),
    10 * steps,
  );
  assert.equal(Math.max(...metrics.steps.map(({ memoryBytes }) => memoryBytes ?? 0)), steps - 1);
});
