// The lock on an output folder: one holder at a time, and a lock whose holder is gone stops nobody.
// slow
import assert from "node:assert/strict";
import { execFileSync, fork, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { LOCK_NAME } from "../../src/files.ts";
import { isLocked, lockFolder } from "../../src/platform/node/lock.ts";
import { refused } from "../helpers/assert.ts";
import { compiled } from "../helpers/repository.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const fresh = freshFolders();
const WATCH_MS = 300;
const fileOf = (folder: string) => path.join(folder, LOCK_NAME);

/** A lock as this process would write it now. */
async function holder(): Promise<Record<string, unknown>> {
  const folder = fresh();
  const lock = await lockFolder(folder);
  const text = readFileSync(fileOf(folder), "utf8");
  await lock.release();
  return JSON.parse(text);
}

/** A process that takes locks (lock-child.ts): an answer is null for a lock that is held. */
async function lockProcess() {
  const child = fork(compiled("test/helpers/lock-child.ts"));
  await once(child, "message");
  return {
    child,
    async ask(request: { folder: string; timing?: object; busyMs?: number }): Promise<{ code: string; got: string } | null> {
      child.send({ busyMs: 0, ...request });
      return (await once(child, "message"))[0];
    },
  };
}

const heldBy = async (work: Promise<unknown>, pid: number) => {
  const { next } = await refused(work, "file/locked", { got: new RegExp(`process ${pid} `) });
  assert.ok(next!.includes(LOCK_NAME));
  return next!;
};

test("a folder is locked once, and free again behind it", async () => {
  const folder = fresh();
  const lock = await lockFolder(folder);
  assert.equal(await isLocked(folder), true);
  await heldBy(lockFolder(folder), process.pid);
  await lock.release();
  assert.equal(await isLocked(folder), false);
  assert.deepEqual(readdirSync(folder), []);
  await (await lockFolder(folder)).release();
});

test("a live process holds its lock; when it is killed, the lock is replaced at once", async () => {
  const folder = fresh();
  const { child, ask } = await lockProcess();
  assert.equal(await ask({ folder, timing: {} }), null);
  assert.equal(await isLocked(folder), true);
  await heldBy(lockFolder(folder), child.pid!);
  child.kill("SIGKILL");
  await once(child, "close");
  assert.equal(await isLocked(folder), false);
  const began = performance.now();
  await (await lockFolder(folder)).release();
  assert.ok(performance.now() - began < 5000, "it waited for a process that is gone");
});

test("a process number that was given to another process is not the holder", {
  skip: !existsSync("/proc/self/stat"),
}, async () => {
  const folder = fresh();
  writeFileSync(fileOf(folder), JSON.stringify({ ...(await holder()), started: "1" }));
  assert.equal(await isLocked(folder), false);
  await (await lockFolder(folder)).release();
});

test("where the start of a process is unknown, this process knows its own locks", async () => {
  const folder = fresh();
  writeFileSync(fileOf(folder), JSON.stringify({ ...(await holder()), started: null }));
  await (await lockFolder(folder)).release();
});

test("a lock of another machine is held while it is touched", async () => {
  const folder = fresh();
  const elsewhere = JSON.stringify({ ...(await holder()), place: "another-host", pid: 4711 });
  writeFileSync(fileOf(folder), elsewhere);
  let at = 1_000_000;
  const beat = setInterval(() => utimesSync(fileOf(folder), at, at++), 50);
  try {
    const next = await heldBy(lockFolder(folder, LOCK_NAME, { watchMs: WATCH_MS }), 4711);
    assert.ok(!next.includes("kill"), "its number is another process here");
  } finally {
    clearInterval(beat);
  }
  assert.equal(await isLocked(folder), false, "touched long ago");
  const lock = await lockFolder(folder, LOCK_NAME, { watchMs: WATCH_MS });
  assert.notEqual(readFileSync(fileOf(folder), "utf8"), elsewhere);
  await lock.release();
});

test("a lock that was cut off while it was written is replaced", async () => {
  for (const text of ["", "{", "null", '{"pid": -1}', "\u0000".repeat(100)]) {
    const folder = fresh();
    writeFileSync(fileOf(folder), text);
    assert.equal(await isLocked(folder), false);
    await (await lockFolder(folder, LOCK_NAME, { watchMs: WATCH_MS })).release();
  }
});

test("what is no lock at all holds nobody up", { skip: process.platform === "win32", timeout: 20_000 }, async () => {
  const [pipe, large, link] = [fresh(), fresh(), fresh()];
  symlinkSync(path.join(fresh(), "nowhere"), fileOf(link));
  execFileSync("mkfifo", [fileOf(pipe)]);
  writeFileSync(fileOf(large), "{".repeat(5000));
  for (const folder of [pipe, large, link]) {
    assert.equal(await isLocked(folder), false);
    await (await lockFolder(folder, LOCK_NAME, { watchMs: WATCH_MS })).release();
  }
});

test("of many that find an abandoned lock at the same time, one gets it", async () => {
  const { pid } = spawnSync(process.execPath, ["-e", ""]);
  for (let round = 0; round < 5; round++) {
    const folder = fresh();
    writeFileSync(fileOf(folder), JSON.stringify({ ...(await holder()), pid }));
    const results = await Promise.allSettled(Array.from({ length: 12 }, () => lockFolder(folder)));
    assert.equal(results.filter(({ status }) => status === "fulfilled").length, 1);
    assert.deepEqual(readdirSync(folder), [LOCK_NAME]);
  }
});

test("unlocking leaves a lock alone that is another's", async () => {
  const folder = fresh();
  const lock = await lockFolder(folder);
  const other = JSON.stringify(await holder());
  writeFileSync(fileOf(folder), other);
  await lock.release();
  assert.equal(readFileSync(fileOf(folder), "utf8"), other);
});

test("a folder that can't be written is named", async () => {
  await assert.rejects(lockFolder(path.join(fresh(), "none")), { code: "file/missing" });
});

async function isTouched(folder: string): Promise<void> {
  utimesSync(fileOf(folder), 1, 1);
  for (let i = 0; i < 500 && statSync(fileOf(folder)).mtimeMs < 1e6; i++) await sleep(10);
  assert.ok(statSync(fileOf(folder)).mtimeMs > 1e6);
}

let other: Awaited<ReturnType<typeof lockProcess>> | undefined;
after(() => other?.child.kill("SIGKILL"));

async function lockInProcess(folder: string, timing: object) {
  other ??= await lockProcess();
  const { child, ask } = other;
  assert.equal(await ask({ folder, timing }), null);
  await isTouched(folder);
  return { child, check: (busyMs = 0) => ask({ folder, busyMs }) };
}

/** Another machine, container or numbering of processes. */
const elsewhere = { watchMs: WATCH_MS, place: "elsewhere" };
const noStop = { skip: process.platform === "win32" && "Windows can't suspend a process" };

test("a process whose main thread is busy keeps its lock", async () => {
  const folder = fresh();
  const { check } = await lockInProcess(folder, { beatMs: 50 });
  const checked = check(4 * WATCH_MS);
  await heldBy(lockFolder(folder, LOCK_NAME, elsewhere), JSON.parse(readFileSync(fileOf(folder), "utf8")).pid);
  assert.equal(await checked, null);
});

test("a process that was suspended until its lock was taken over finds that out, and remembers it", noStop, async () => {
  const folder = fresh();
  const { child, check } = await lockInProcess(folder, { beatMs: 50 });
  child.kill("SIGSTOP");
  const lock = await lockFolder(folder, LOCK_NAME, elsewhere);
  child.kill("SIGCONT");
  const loss = { code: "file/lock-lost", got: `a lock of process ${process.pid} on elsewhere` };
  const { code, got } = (await check())!;
  assert.deepEqual({ code, got: got.split(",")[0] }, loss);
  await lock.check();
  await lock.release();
  assert.equal((await check())!.code, "file/lock-lost");
  assert.ok(!existsSync(fileOf(folder)));
});

test("a lock file that somebody removed is made again, but not after a suspension", noStop, async () => {
  const folder = fresh();
  const { child, check } = await lockInProcess(folder, { beatMs: 50, watchMs: WATCH_MS });
  const text = readFileSync(fileOf(folder), "utf8");
  rmSync(fileOf(folder));
  assert.equal(await check(), null);
  assert.equal(readFileSync(fileOf(folder), "utf8"), text);
  child.kill("SIGSTOP");
  rmSync(fileOf(folder));
  await sleep(WATCH_MS + 50);
  child.kill("SIGCONT");
  assert.match((await check())!.got, /after a suspension/);
  assert.ok(!existsSync(fileOf(folder)));
});

test("a lock does not outlive its folder, and leaves alone what came into its place", async () => {
  for (const isReplaced of [false, true]) {
    const folder = fresh();
    const lock = await lockFolder(folder);
    await lock.check();
    rmSync(folder, { recursive: true });
    if (isReplaced) mkdirSync(folder);
    await refused(lock.check(), "file/lock-lost", { got: /removed or replaced/ });
    await lock.release();
    if (isReplaced) assert.deepEqual(readdirSync(folder), []);
  }
  const folder = fresh();
  const lock = await lockFolder(folder);
  writeFileSync(fileOf(folder), "another");
  const { exitCode } = await refused(lock.check(), "file/lock-lost", { got: "another lock" });
  assert.equal(exitCode, 1);
  rmSync(fileOf(folder));
  await refused(lock.check(), "file/lock-lost");
  await lock.release();
});

test("a lock that is held is touched", async () => {
  const folder = fresh();
  const lock = await lockFolder(folder, LOCK_NAME, { beatMs: 20 });
  await isTouched(folder);
  await lock.release();
});
