// What else Node and the machine give: memory and disk that are left, the engine's version, garbage collection, the charts' library.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile, statfs } from "node:fs/promises";
import { createRequire } from "node:module";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { MakeDigest } from "../../formats/checksums.ts";
import { bytes } from "../../units.ts";
import type { ChartLibrary } from "../platform.ts";
import { orEmpty } from "./files.ts";

const require = createRequire(import.meta.url);

/** The version of this program, from its package.json. */
export const version: string = require("../../../package.json").version;

/** What a run's speed and last bits depend on beside its options, in words. */
export const environment = (): Record<string, string> => ({
  "ONNX Runtime": require("onnxruntime-node/package.json").version,
  Node: process.version,
  system: `${process.platform} ${process.arch}`,
  processor: `${availableParallelism()} × ${cpus()[0]?.model.trim() ?? "unknown"}`,
  "memory of the machine": bytes(totalmem()),
});

/** Where Linux says what a container's memory is used for (cgroup v2). */
const CGROUP_STAT = "/sys/fs/cgroup/memory.stat";

/**
 * Memory that could be had without swapping, and all that the process may ever have, in bytes. A container's limit counts.
 * macOS counts as free only what nothing was ever kept in, so there both are the machine's memory.
 */
export function memoryLimits(): { available: number; total: number } {
  const machine = totalmem();
  if (process.platform === "darwin") return { available: machine, total: machine };
  const limit = process.constrainedMemory() ?? 0;
  if (!(limit > 0 && limit < machine)) return { available: freemem(), total: machine };
  // Pages of files count as used there, but give way.
  const cached = /^inactive_file (\d+)$/m.exec(orEmpty(() => readFileSync(CGROUP_STAT, "utf8")))?.[1] ?? 0;
  return { available: Math.min(freemem(), process.availableMemory() + Number(cached)), total: limit };
}

/** Bytes that may still be written to the disk that `folder` is on. */
export async function freeDisk(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** When Slurm ends the job that this process is of, in seconds since 1970. */
const END_TIME = Number(process.env["SLURM_JOB_END_TIME"] ?? Number.NaN);

/** Seconds until the batch system ends the process; undefined where nobody says so. */
export const secondsLeft = END_TIME > 0 ? () => END_TIME - Date.now() / 1000 : undefined;

/** Hashes by OpenSSL. */
export const digest: MakeDigest = (algorithm = "sha256") => {
  const hash = createHash(algorithm);
  return { add: (part) => void hash.update(part), end: () => hash.digest("hex") };
};

setFlagsFromString("--expose-gc");
/**
 * Frees what nobody holds any more, in some milliseconds, more with a large heap. V8 sees the size of its own objects, not that of
 * the buffers they hold, and comes too late for those.
 */
export const collect = runInNewContext("gc") as () => void;
setFlagsFromString("--no-expose-gc");

/** uPlot's script and style from the installed package, for reports, which carry them inside. */
export async function chartLibrary(): Promise<ChartLibrary> {
  const text = (name: string) => readFile(require.resolve(`uplot/${name}`), "utf8");
  const [script, style, license] = await Promise.all(["dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE"].map(text));
  return { script: script!, style: style!, license: license! };
}
