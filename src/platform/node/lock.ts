// A lock on an output folder, so that one process trains into it. A lock whose process has ended is replaced: it is known by
// host, process number and when the process started, and where that can't be looked up, by whether its file is still touched.
import { randomUUID } from "node:crypto";
import { constants, readFileSync, readlinkSync } from "node:fs";
import { rm, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { LowrankError } from "../../errors.ts";
import { LOCK_NAME, type Lock } from "../../files.ts";
import { named, orEmpty, withFile } from "./files.ts";

/** A larger file is no lock. */
const MAX_LOCK_BYTES = 4096;
/** The file of a lock that is held is touched this often. */
const BEAT_MS = 5000;
/** A lock of another machine is watched this long before it counts as abandoned; no clock is compared. */
const WATCH_MS = 16_000;
/** One that has no content is about to be written, or was cut off while it was. */
const WRITE_MS = 1000;
/** For lists of runs, which wait for nothing: a lock of another machine counts if it was touched so lately. */
const FRESH_MS = 60_000;

export interface Holder {
  pid: number;
  /** The machine, its boot and its numbering of processes: what makes `pid` mean the same process. */
  place: string;
  /** When the process started, in a form that only compares; null where the system does not report it. */
  started: string | null;
  /** ISO 8601. */
  since: string;
  token: string;
}

const tokens = new Set<string>();

const place = [
  hostname(),
  orEmpty(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
  orEmpty(() => readlinkSync("/proc/self/ns/pid")),
]
  .filter(Boolean)
  .join(" ");

/** Linux: clock ticks from the boot to the start of a process, field 22 of proc_pid_stat(5). */
function startOf(pid: number): string | null {
  const stat = orEmpty(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
}

/** Whether a process of this place lives and is the one that took the lock. */
function isAlive({ pid, started, token }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const now = startOf(pid);
  if (started !== null && now !== null) return started === now;
  return pid !== process.pid || tokens.has(token);
}

/** The text of a lock file and when it was touched; undefined if there is none. */
async function look(file: string): Promise<{ text: string; touched: number } | undefined> {
  try {
    // A pipe of that name must not be waited for.
    return await withFile(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0), async (handle) => {
      const found = await handle.stat();
      const isLock = found.isFile() && found.size <= MAX_LOCK_BYTES;
      return { text: isLock ? await handle.readFile("utf8") : "", touched: found.mtimeMs };
    });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    const found: Holder = JSON.parse(text);
    const { pid, place, started, since, token } = found;
    const texts = started === null ? [place, since, token] : [place, since, token, started];
    return Number.isSafeInteger(pid) && pid > 0 && texts.every((value) => typeof value === "string") ? found : undefined;
  } catch {
    return undefined;
  }
}

/** Waits until it is certain whether the lock that reads `text` is held, and by whom. */
async function holderOf(file: string, text: string, watchMs: number): Promise<Holder | undefined> {
  const holder = parseHolder(text);
  if (holder && holder.place === place) return isAlive(holder) ? holder : undefined;
  const first = await look(file);
  for (let waited = 0; waited < (holder ? watchMs : Math.min(watchMs, WRITE_MS)); ) {
    const pause = Math.min(200, watchMs);
    await sleep(pause);
    waited += pause;
    const now = await look(file);
    if (!now) return undefined;
    if (now.text !== text) return holderOf(file, now.text, watchMs);
    if (holder && now.touched !== first?.touched) return holder;
  }
  return undefined;
}

/**
 * Removes the abandoned lock that reads `text`, and no other: who removes one claims it first, so that a lock that was taken
 * over a moment ago is not mistaken for the one before it.
 */
async function removeAbandoned(file: string, text: string): Promise<void> {
  const claim = `${file}.claim`;
  if (await create(claim, "")) {
    if ((await look(file))?.text === text) await rm(file, { force: true });
    await rm(claim, { force: true });
    return;
  }
  const before = await look(claim);
  for (let waited = 0; before && waited < WRITE_MS; waited += 50) {
    await sleep(50);
    if ((await look(claim))?.touched !== before.touched) return;
  }
  await rm(claim, { force: true });
}

/**
 * Locks `folder`, which exists, by the file `name` in it. Fails with `file/locked` if another process, or another run of this one,
 * holds it.
 */
export async function lockFolder(folder: string, name = LOCK_NAME, watchMs = WATCH_MS): Promise<Lock> {
  const file = `${folder}/${name}`;
  const token = randomUUID();
  const mine: Holder = { pid: process.pid, place, started: startOf(process.pid), since: new Date().toISOString(), token };
  tokens.add(token);
  try {
    await named(folder, async () => {
      while (!(await create(file, `${JSON.stringify(mine)}\n`))) {
        const found = await look(file);
        if (!found) continue;
        const holder = await holderOf(file, found.text, watchMs);
        if (holder) throw locked(folder, file, holder);
        await removeAbandoned(file, found.text);
      }
    });
  } catch (error) {
    tokens.delete(token);
    throw error;
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => {});
  }, BEAT_MS);
  beat.unref();
  const isMine = async () => {
    const found = await look(file);
    return found !== undefined && parseHolder(found.text)?.token === token;
  };
  return {
    async check() {
      if (!(await isMine()))
        throw new LowrankError("file/lock-lost", "the folder's lock was lost", { subject: folder, exitCode: 1 });
    },
    async release() {
      clearInterval(beat);
      if (await isMine()) await rm(file, { force: true });
      tokens.delete(token);
    },
  };
}

/** Creates the file with `text`; false if it is there. */
async function create(file: string, text: string): Promise<boolean> {
  let isMade = false;
  try {
    await withFile(file, "wx", (handle) => {
      isMade = true;
      return handle.writeFile(text);
    });
  } catch (error) {
    if (!isMade && (error as NodeJS.ErrnoException).code === "EEXIST") return false;
    if (isMade) await rm(file, { force: true });
    throw error;
  }
  return true;
}

/** Whether somebody trains into `folder` now, as far as is known without waiting. */
export async function isLocked(folder: string): Promise<boolean> {
  const found = await named(folder, () => look(`${folder}/${LOCK_NAME}`));
  const holder = found && parseHolder(found.text);
  if (!holder) return false;
  return holder.place === place ? isAlive(holder) : Math.abs(Date.now() - found.touched) < FRESH_MS;
}

function locked(folder: string, file: string, { pid, place: where, since }: Holder): LowrankError {
  const host = where.split(" ")[0];
  return new LowrankError("file/locked", "another run is writing into the folder", {
    subject: folder,
    expected: "a folder that nobody writes into",
    got: `process ${pid} on ${host}, since ${since}`,
    next: `Let it end, stop it (it saves what it has: kill ${pid}), or choose another folder. If there is no such process, remove ${file}.`,
  });
}
