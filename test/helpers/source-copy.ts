// A copy of the sources in a folder of its own, for tests that follow a page of docs: what they change there, and programs that run there.
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { repository } from "./repository.ts";

/** Of every copy. */
const COMMON = ["package.json", "tsconfig.base.json", "tsconfig.node.json", "scripts/compile.mjs", "src"];

export interface Ended {
  code: number | null;
  /** All that the program printed. */
  text: string;
}

export interface SourceCopy {
  /** The path of a file of the copy. */
  at(name: string): string;
  /** Files of the copy that the working tree has not, or has otherwise. */
  changed(): string[];
  /** Compiles the copy, after its sources have changed. */
  compile(): Promise<void>;
  /** Runs a TypeScript file of the copy as it was compiled last. */
  run(file: string, ...args: string[]): Promise<Ended>;
  /** Runs the tests in a file of the copy whose names contain `name`: how many passed. */
  tests(file: string, name: string, env?: Record<string, string>): Promise<Ended & { passed: number }>;
  /** The command line of the copy. */
  lowrank(...args: string[]): Promise<Ended>;
  /** Checks the types of the copy's `src`. */
  types(): Promise<Ended>;
  remove(): void;
}

/** Copies `names` beside what every copy needs. */
export function sourceCopy(what: string, names: readonly string[]): SourceCopy {
  const copy = mkdtempSync(path.join(tmpdir(), `lowrank-${what}-`));
  const at = (name: string) => path.join(copy, name);
  for (const name of [...COMMON, ...names]) cpSync(path.join(repository, name), at(name), { recursive: true });
  symlinkSync(path.join(repository, "node_modules"), at("node_modules"));
  mkdirSync(at("test/fixtures/cases"), { recursive: true });

  const changedIn = (folder: string): string[] =>
    readdirSync(at(folder), { withFileTypes: true }).flatMap((entry) => {
      const name = path.posix.join(folder, entry.name);
      if (entry.isSymbolicLink() || name === "build" || name === "dist") return [];
      if (entry.isDirectory()) return changedIn(name);
      const there = path.join(repository, name);
      return existsSync(there) && readFileSync(there).equals(readFileSync(at(name))) ? [] : [name];
    });

  function node(args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
    const { NODE_TEST_CONTEXT: _, ...own } = process.env; // a test runner within ours prints for itself
    const child = spawn(process.execPath, args, { cwd: copy, env: { ...own, ...env } });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part: string) => (text += part));
    return new Promise((resolve, reject) => child.on("error", reject).on("close", (code) => resolve({ code, text })));
  }
  const built = (file: string) => `build/${file.replace(/\.ts$/, ".js")}`;
  const run = (file: string, ...args: string[]) => node([built(file), ...args]);
  return {
    at,
    changed: () => changedIn(""),
    async compile() {
      const { code, text } = await node(["--input-type=module", "-e", "(await import('./scripts/compile.mjs')).compile()"]);
      if (code !== 0) throw new Error(text);
    },
    run,
    async tests(file, name, env) {
      const ended = await node([`--test-name-pattern=${name}`, "--test", built(file)], env);
      return { ...ended, passed: Number(/^(?:ℹ|#) pass (\d+)$/m.exec(ended.text)?.[1]) };
    },
    lowrank: (...args) => run("src/cli/main.ts", ...args),
    types: () => node(["node_modules/typescript/bin/tsc", "-b", "tsconfig.node.json"]),
    remove: () => rmSync(copy, { recursive: true }),
  };
}
