// A copy of the sources in a folder of its own, for tests that follow a page of docs: what they change there, and programs that run there.
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface SourceCopy {
  /** The path of a file of the copy. */
  at(name: string): string;
  /** Files of the copy that the working tree has not, or has otherwise. */
  changed(): string[];
  /** Runs a program of the copy: its exit code, and all that it printed. */
  node(args: string[], env?: Record<string, string>): Promise<{ code: number | null; text: string }>;
  remove(): void;
}

/** Copies `names` and what every copy needs: package.json, the compiler's settings and the packages. */
export function sourceCopy(what: string, names: readonly string[]): SourceCopy {
  const copy = mkdtempSync(path.join(tmpdir(), `lowrank-${what}-`));
  for (const name of ["package.json", "tsconfig.json", ...names]) {
    cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  }
  symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"));
  mkdirSync(path.join(copy, "test/fixtures/cases"), { recursive: true });
  const changedIn = (folder: string): string[] =>
    readdirSync(path.join(copy, folder), { withFileTypes: true }).flatMap((entry) => {
      const name = path.posix.join(folder, entry.name);
      if (entry.isSymbolicLink()) return [];
      if (entry.isDirectory()) return changedIn(name);
      const [there, here] = [path.join(root, name), path.join(copy, name)];
      return existsSync(there) && readFileSync(there).equals(readFileSync(here)) ? [] : [name];
    });
  return {
    at: (name) => path.join(copy, name),
    changed: () => changedIn(""),
    node(args, env = {}) {
      const { NODE_TEST_CONTEXT: _, ...own } = process.env; // a test runner within ours prints for itself
      const child = spawn(process.execPath, args, { cwd: copy, env: { ...own, ...env } });
      let text = "";
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part: string) => (text += part));
      return new Promise((resolve, reject) => child.on("error", reject).on("close", (code) => resolve({ code, text })));
    },
    remove: () => rmSync(copy, { recursive: true }),
  };
}
