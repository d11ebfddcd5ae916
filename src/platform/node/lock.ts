// A lock on an output folder, so that one process trains into it. A lock whose process has ended is replaced: it is known by
// host, process number and when the process started, and where that can't be looked up, by whether its file is still touched.
import { randomUUID } from "node:crypto";
import { closeSync, constants, openSync, readFileSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { LowrankError } from "../../errors.ts";
import { LOCK_NAME, type Lock } from "../../files.ts";
import { named, orEmpty, withFile } from "./files.ts";
import { here, isThere } from "./process-ids.ts";

/** A larger file is no lock. */
const MAX_LOCK_BYTES = 4096;
/** The file of a lock that is held is touched this often. */
const BEAT_MS = 5000;
/** Memory of the thread that touches it: it has nothing to remember. */
const HEART_LIMITS = { maxYoungGenerationSizeMb: 1, maxOldGenerationSizeMb: 16, stackSizeMb: 1 };
/** A lock of another machine is watched this long before it counts as abandoned; no clock is compared. */
const WATCH_MS = 16_000;
/** One that has no content is about to be written, or was cut off while it was. */
const WRITE_MS = 1000;
/** For lists of runs, which wait for nothing: a lock of another machine counts if it was touched so lately. */
const FRESH_MS = 60_000;

export interface Holder {
  pid: number;
  /** What makes `pid` mean the same process (`here`). */
  place: string;
  /** When the process started, in a form that only compares; null where the system does not report it. */
  started: string | null;
  /** ISO 8601. */
  since: string;
  token: string;
}

const tokens = new Set<string>();

/** Linux: clock ticks from the boot to the start of a process, field 22 of proc_pid_stat(5). */
function startOf(pid: number): string | null {
  const stat = orEmpty(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
}

/** Whether a process of this place lives and is the one that took the lock. */
function isAlive({ pid, started, token }: Holder): boolean {
  if (!isThere(pid)) return false;
  const now = startOf(pid);
  if (started !== null && now !== null) return started === now;
  return pid !== process.pid || tokens.has(token);
}

/** The text of a lock file and when it was touched; undefined if there is none. */
async function look(file: string): Promise<{ text: string; touched: number } | undefined> {
  try {
    // A pipe of that name must not be waited for, and a link is no lock.
    return await withFile(
      file,
      constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOFOLLOW ?? 0),
      async (handle) => {
        const found = await handle.stat();
        const isLock = found.isFile() && found.size <= MAX_LOCK_BYTES;
        return { text: isLock ? await handle.readFile("utf8") : "", touched: found.mtimeMs };
      },
    );
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    if (code === "ELOOP") return { text: "", touched: 0 };
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
async function holderOf(file: string, text: string, watchMs: number, place: string): Promise<Holder | undefined> {
  const holder = parseHolder(text);
  if (holder && holder.place === place) return isAlive(holder) ? holder : undefined;
  const first = await look(file);
  for (let waited = 0; waited < (holder ? watchMs : Math.min(watchMs, WRITE_MS)); ) {
    const pause = Math.min(200, watchMs);
    await sleep(pause);
    waited += pause;
    const now = await look(file);
    if (!now) return undefined;
    if (now.text !== text) return holderOf(file, now.text, watchMs, place);
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

/** How a lock was lost: the text of the lock file that another run made, or what happened. */
export type Loss = { by: string } | { by: null; reason: string };

/** What tests change: times, and where the process seems to run. */
interface LockTiming {
  watchMs?: number;
  beatMs?: number;
  place?: string;
}

/**
 * Locks `folder`, which exists, by the file `name` in it. Fails with `file/locked` if another process, or another run of this one,
 * holds it.
 */
export async function lockFolder(folder: string, name = LOCK_NAME, timing: LockTiming = {}): Promise<Lock> {
  const { watchMs = WATCH_MS, beatMs = BEAT_MS, place = here } = timing;
  const file = `${folder}/${name}`;
  const token = randomUUID();
  const mine: Holder = { pid: process.pid, place, started: startOf(process.pid), since: new Date().toISOString(), token };
  const text = `${JSON.stringify(mine)}\n`;
  tokens.add(token);
  try {
    await named(folder, async () => {
      while (!(await create(file, text))) {
        const found = await look(file);
        if (!found) continue;
        const holder = await holderOf(file, found.text, watchMs, place);
        if (holder) throw locked(folder, file, holder);
        await removeAbandoned(file, found.text);
      }
    });
  } catch (error) {
    tokens.delete(token);
    throw error;
  }
  const opened = await named(folder, async () => openFolder(folder));
  const heart = heartbeat({ folder, file, text, identity: opened.identity, beatMs, watchMs, maxBytes: MAX_LOCK_BYTES });
  return {
    async check() {
      // A lock that was taken a moment ago need not wait for the thread to start.
      if (!heart.isBeating() && (await look(file))?.text === text) return;
      const loss = await named(folder, heart.check);
      if (loss) throw lost(folder, loss);
    },
    async release() {
      await heart.stop();
      opened.close();
      tokens.delete(token);
      if ((await look(file))?.text !== text) return false;
      await rm(file, { force: true });
      return true;
    },
  };
}

/** A folder by its number, which no new folder gets while it is open. Windows opens none, and gives no number twice. */
function openFolder(folder: string): { identity: string; close: () => void } {
  const { dev, ino } = statSync(folder, { bigint: true });
  let number: number | undefined;
  try {
    number = openSync(folder, "r");
  } catch {} // it need not be readable
  const close = () => {
    if (number !== undefined) closeSync(number);
    number = undefined;
  };
  return { identity: `${dev} ${ino}`, close };
}

/** Starts the thread that keeps the lock (heartbeat.mjs). */
function heartbeat(workerData: Record<string, string | number>) {
  const waiting: { resolve: (loss: Loss | null) => void; reject: (error: unknown) => void }[] = [];
  let failure: unknown;
  let isBeating = false;
  const worker = new Worker(new URL("./heartbeat.mjs", import.meta.url), {
    workerData,
    execArgv: [],
    resourceLimits: HEART_LIMITS,
  });
  const failed = (error: unknown) => {
    failure ??= error;
    for (const { reject } of waiting.splice(0)) reject(failure);
  };
  worker.once("online", () => {
    isBeating = true;
  });
  worker.on("message", ({ loss, failure }: { loss: Loss | null; failure?: { code: string; message: string } }) => {
    const asked = waiting.shift();
    if (waiting.length === 0) worker.unref();
    if (failure) asked?.reject(Object.assign(new Error(failure.message), failure));
    else asked?.resolve(loss);
  });
  worker.on("error", failed);
  worker.on("exit", () => failed(new Error("the thread that keeps the lock has ended")));
  worker.unref();
  return {
    isBeating: () => isBeating,
    check: () =>
      new Promise<Loss | null>((resolve, reject) => {
        if (failure) return reject(failure);
        waiting.push({ resolve, reject });
        worker.ref();
        worker.postMessage("check");
      }),
    stop: () => worker.terminate(),
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
  return holder.place === here ? isAlive(holder) : Math.abs(Date.now() - found.touched) < FRESH_MS;
}

const inWords = ({ pid, place, since }: Holder): string => `process ${pid} on ${place.split(" ")[0]}, since ${since}`;

function lost(folder: string, loss: Loss): LowrankError {
  const holder = loss.by === null ? undefined : parseHolder(loss.by);
  return new LowrankError("file/lock-lost", "the folder is this run's no longer", {
    subject: folder,
    expected: "the lock that this run took",
    got: loss.by === null ? loss.reason : holder ? `a lock of ${inWords(holder)}` : "another lock",
    next: "Nothing more was written. Let the other run end, if there is one; then run again, or resume from the last checkpoint.",
    exitCode: 1,
  });
}

function locked(folder: string, file: string, holder: Holder): LowrankError {
  // A process number of another machine or container is another process here.
  const stop = holder.place === here ? `stop it (it saves what it has: kill ${holder.pid})` : "stop it there";
  return new LowrankError("file/locked", "another run is writing into the folder", {
    subject: folder,
    expected: "a folder that nobody writes into",
    got: inWords(holder),
    next: `Let it end, ${stop}, or choose another folder. If there is no such process, remove ${file}.`,
  });
}
