// Folders that tests write into.
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";

/** A new empty folder, by its real path. It is removed when the test `t` ends; without `t`, when the process does. */
export function temporaryFolder(t?: Pick<TestContext, "after">): string {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), "lowrank-test-")));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  if (t) t.after(remove);
  else process.once("exit", remove);
  return folder;
}
