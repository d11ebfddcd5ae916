// Clocks that jump by hours, forward and back, beside training (cases/machine.ts): the log, progress, locks, waits for the hub.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, utimesSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { pace, stopwatch } from "../../src/clock.ts";
import { LOCK_NAME } from "../../src/files.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { isLocked, lockFolder } from "../../src/platform/node/lock.ts";
import { openRunLog } from "../../src/train/run-log.ts";
import { withReplaced } from "../helpers/hostile.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { refuse } from "../hub/server.ts";
import { id, isWeights, model, setting } from "../hub/setting.ts";

const HOUR = 3_600_000;
const root = temporaryFolder();

/** Runs `work` by a clock that `set` sets. */
async function byClock<T>(work: (set: (milliseconds: number) => void) => Promise<T>): Promise<T> {
  let time = 100 * HOUR;
  const set = (milliseconds: number): void => {
    time = milliseconds;
  };
  return withReplaced(performance, { now: () => time }, () => work(set));
}

test("time never gets less, and goes on behind a jump back", () =>
  byClock(async (set) => {
    const elapsed = stopwatch();
    const isDue = pace(10);
    const seen = [0, 5000, -HOUR, -HOUR + 6000, -HOUR + 7000].map((at) => {
      set(100 * HOUR + at);
      return [elapsed(), isDue()];
    });
    assert.deepEqual(seen, [
      [0, false],
      [5, false],
      [5, false],
      [11, true],
      [12, false],
    ]);
    assert.deepEqual([pace(10)(), pace(10, true)()], [false, true]);
  }));

test("the log of a run is written every few seconds after the clock went back an hour", () =>
  byClock(async (set) => {
    const log = await openRunLog(nodeFiles, root);
    const lines = () => readFileSync(path.join(root, "metrics.jsonl"), "utf8").split("\n").length - 1;
    await log.add({ type: "checkpoint", step: 1 });
    await log.flush();
    set(99 * HOUR);
    await log.add({ type: "checkpoint", step: 2 });
    set(99 * HOUR + 3000);
    await log.add({ type: "checkpoint", step: 3 });
    assert.equal(lines(), 3);
  }));

test("progress of a download is reported after the clock went back an hour", async () => {
  const at = await setting([model({ "config.json": Buffer.from("{}"), "model.safetensors": Buffer.alloc(4_000_000) })]);
  let calls = 0;
  // Half a second between two looks, and an hour back once.
  const now = () => 100 * HOUR + calls++ * 500 - (calls > 8 ? HOUR : 0);
  await withReplaced(performance, { now }, () => resolveModel(id, at.options));
  const reports = at.events.flatMap((event) => (event.type === "downloading" ? [event] : []));
  assert.ok(reports.length > 10, `${reports.length} reports`);
  for (const { bytesPerSecond } of reports) assert.ok(bytesPerSecond === null || bytesPerSecond > 0, `${bytesPerSecond}`);
});

test("a hub whose clock is another one's is asked again when it says", async () => {
  for (const skew of [-5 * HOUR, 5 * HOUR]) {
    const date = (seconds: number) => new Date(Date.now() + skew + 1000 * seconds).toUTCString();
    const at = await setting([model()], ({ url }, response, count) => {
      if (!isWeights(url) || count > 1) return false;
      return refuse(response, 429, "", { date: date(0), "retry-after": date(30) });
    });
    await resolveModel(id, at.options);
    assert.equal(at.waits.length, 1);
    assert.ok(Math.abs(at.waits[0]! - 30) <= 1, `${at.waits}`);
  }
});

test("a lock stays held while the clock is hours away from its file's times", async () => {
  const folder = path.join(root, "locked");
  mkdirSync(folder);
  await lockFolder(folder);
  for (const hours of [-5, 5]) {
    const time = new Date(Date.now() + hours * HOUR);
    utimesSync(path.join(folder, LOCK_NAME), time, time);
    assert.equal(await isLocked(folder), true);
    await assert.rejects(lockFolder(folder, LOCK_NAME, { watchMs: 10 }), { code: "file/locked" });
  }
});
