// The lock on an output folder: one holder at a time, and a lock whose holder is gone stops nobody.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { LOCK_NAME } from "../../src/files.ts";
import { isLocked, lockFolder } from "../../src/platform/node/lock.ts";
import { refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
let folders = 0;
const fresh = (): string => {
  const folder = path.join(root, `${folders++}`);
  mkdirSync(folder);
  return folder;
};
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

const heldBy = async (work: Promise<unknown>, pid: number) => {
  const { next } = await refused(work, "file/locked", { got: new RegExp(`process ${pid} `) });
  assert.ok(next!.includes(LOCK_NAME));
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
  const source = fileURLToPath(new URL("../../src/platform/node/lock.ts", import.meta.url));
  const code = `import(${JSON.stringify(source)}).then(async ({ lockFolder }) => { await lockFolder(${JSON.stringify(folder)}); console.log("locked"); setInterval(() => {}, 1000); });`;
  const child = spawn(process.execPath, ["--import", "tsx", "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
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
    await heldBy(lockFolder(folder, LOCK_NAME, WATCH_MS), 4711);
  } finally {
    clearInterval(beat);
  }
  assert.equal(await isLocked(folder), false, "touched long ago");
  const lock = await lockFolder(folder, LOCK_NAME, WATCH_MS);
  assert.notEqual(readFileSync(fileOf(folder), "utf8"), elsewhere);
  await lock.release();
});

test("a lock that was cut off while it was written is replaced", async () => {
  for (const text of ["", "{", "null", '{"pid": -1}', "\u0000".repeat(100)]) {
    const folder = fresh();
    writeFileSync(fileOf(folder), text);
    assert.equal(await isLocked(folder), false);
    await (await lockFolder(folder, LOCK_NAME, WATCH_MS)).release();
  }
});

test("what is no lock at all holds nobody up", { skip: process.platform === "win32" }, async () => {
  const [pipe, large] = [fresh(), fresh()];
  execFileSync("mkfifo", [fileOf(pipe)]);
  writeFileSync(fileOf(large), "{".repeat(5000));
  for (const folder of [pipe, large]) {
    assert.equal(await isLocked(folder), false);
    await (await lockFolder(folder, LOCK_NAME, WATCH_MS)).release();
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
  await assert.rejects(lockFolder(path.join(root, "none")), { code: "file/missing" });
});
