// What this machine has left: memory within the limits of a container, and disk.
import { readFileSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { freemem, totalmem } from "node:os";

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
  return { available: Math.min(freemem(), process.availableMemory() + cachedFiles()), total: limit };
}

function cachedFiles(): number {
  try {
    const bytes = /^inactive_file (\d+)$/m.exec(readFileSync(CGROUP_STAT, "utf8"))?.[1];
    return Number(bytes ?? 0);
  } catch {
    return 0;
  }
}

/** Bytes that may still be written to the disk that `folder` is on. */
export async function freeDisk(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}
