// A folder of the operating system's for what a check writes.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

/** Runs `work` with a new folder, which is removed afterwards. */
export async function inTemporaryFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(path.join(tmpdir(), "lowrank-oracle-"));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
