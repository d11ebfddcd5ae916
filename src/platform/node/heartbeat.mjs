// Keeps the file of a lock touched, in a thread of its own: the main thread may be busy for longer than a lock is waited for.
// lock.ts starts it and asks it whether the lock is still held.
import { lstatSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";

/** @type {{ folder: string, file: string, text: string, identity: string, beatMs: number, watchMs: number, maxBytes: number }} */
const { folder, file, text, identity, beatMs, watchMs, maxBytes } = workerData;

/** The folder that is there now. */
const folderIdentity = () => {
  const { dev, ino } = statSync(folder, { bigint: true });
  return `${dev} ${ino}`;
};

/** @template T @param {() => T} work @param {string} code @returns {T | undefined} */
function unless(code, work) {
  try {
    return work();
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === code) return undefined;
    throw error;
  }
}

/** The text of the lock file; none where it is no lock. */
const lockText = () => {
  const found = lstatSync(file);
  return found.isFile() && found.size <= maxBytes ? readFileSync(file, "utf8") : "";
};

/** By the clock that runs while the machine sleeps, too. */
let beaten = Date.now();
/** @type {import("./lock.ts").Loss | null} */
let loss = null;

/** Whether the lock is held: null, or how it was lost, which is for good. A lock file that somebody removed is made again. */
function beat() {
  if (loss) return loss;
  const found = unless("ENOENT", lockText);
  const now = Date.now();
  if (found === text) utimesSync(file, new Date(now), new Date(now));
  else if (found !== undefined) loss = { by: found };
  else if (unless("ENOENT", folderIdentity) !== identity) loss = { by: null, reason: "the folder was removed or replaced" };
  // Whoever took the lock for abandoned may have come and gone.
  else if (Math.abs(now - beaten) > watchMs)
    loss = { by: null, reason: "the lock file is gone after a suspension of this process" };
  else if (unless("EEXIST", () => writeFileSync(file, text, { flag: "wx" }) ?? true) === undefined) return beat();
  if (!loss) beaten = now;
  return loss;
}

setInterval(() => {
  try {
    beat();
  } catch {} // a disk that fails for a moment: what is written next fails if it goes on
}, beatMs);

parentPort?.on("message", () => {
  try {
    parentPort?.postMessage({ loss: beat() });
  } catch (error) {
    const { code, message } = /** @type {NodeJS.ErrnoException} */ (error);
    parentPort?.postMessage({ failure: { code, message } }); // a cloned error has no code
  }
});
