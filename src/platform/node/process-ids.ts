// Numbers of processes: where they mean the same process, and whether there is one.
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { orEmpty } from "./files.ts";

/** The machine, its boot and its numbering of processes, which containers have of their own: what makes a number mean the same process. */
export const here = [
  hostname(),
  orEmpty(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
  orEmpty(() => readlinkSync("/proc/self/ns/pid")),
]
  .filter(Boolean)
  .join(" ");

/** Whether there is a process of this number, here. */
export function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
