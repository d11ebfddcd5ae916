// Folders that tests write into.
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";

/** Folders that are removed when the process ends. */
const untilExit: string[] = [];
const remove = (folder: string) => rmSync(folder, { recursive: true, force: true });
process.once("exit", () => untilExit.forEach(remove));

/** A new empty folder, by its real path. It is removed when the test `t` ends; without `t`, when the process does. */
export function temporaryFolder(t?: Pick<TestContext, "after">): string {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), "lowrank-test-")));
  if (t) t.after(() => remove(folder));
  else untilExit.push(folder);
  return folder;
}

/** Makes a new empty folder at each call, all in one temporary folder. */
export function freshFolders(): () => string {
  const root = temporaryFolder();
  let folders = 0;
  return () => {
    const folder = path.join(root, `${folders++}`);
    mkdirSync(folder);
    return folder;
  };
}
