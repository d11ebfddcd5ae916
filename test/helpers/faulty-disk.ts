// Disks and network file systems that fail: calls of the Files interface that are refused, or done and reported as failed; and
// Node's own functions in their place, as nodeFiles calls them.
import { createRequire, syncBuiltinESMExports } from "node:module";
import type { Files } from "../../src/files.ts";
import { named, nodeFiles } from "../../src/platform/node/files.ts";

export interface Fault {
  method: "write" | "append" | "rename" | "remove" | "makeFolder" | "size" | "read" | "list";
  /** Which of its calls, from 0. */
  at: number;
  /** What the system says. */
  code: string;
  /** Whether the call has done its work before it fails. */
  isDone: boolean;
}

export const systemError = (code: string, syscall = ""): NodeJS.ErrnoException =>
  Object.assign(new Error(`${code}: a fault of the test, ${syscall}`), { code, syscall });

/** Files with one fault, and whether it was met. */
export function faultyFiles({ method, at, code, isDone }: Fault): { files: Files; wasMet: () => boolean } {
  let calls = 0;
  const real = nodeFiles[method] as (subject: string, ...rest: unknown[]) => Promise<unknown>;
  const instead = async (subject: string, ...rest: unknown[]): Promise<unknown> => {
    if (calls++ !== at) return real(subject, ...rest);
    if (isDone) await real(subject, ...rest);
    return named(subject, () => Promise.reject(systemError(code)));
  };
  return { files: { ...nodeFiles, [method]: instead }, wasMet: () => calls > at };
}

type Promises = typeof import("node:fs/promises");
const promises: Promises = createRequire(import.meta.url)("node:fs/promises");

/** Replaces a function of node:fs/promises for the time of `work`. */
export async function withSystem<N extends keyof Promises, T>(
  name: N,
  instead: (real: Promises[N]) => Promises[N],
  work: () => Promise<T>,
): Promise<T> {
  const real = promises[name];
  promises[name] = instead(real);
  syncBuiltinESMExports();
  try {
    return await work();
  } finally {
    promises[name] = real;
    syncBuiltinESMExports();
  }
}

/** Replaces what an open file does at its `method`, for the time of `work`. */
export const withHandles = <T>(
  method: "sync" | "write",
  instead: (real: (...args: never[]) => Promise<unknown>, file: string) => (...args: never[]) => Promise<unknown>,
  work: () => Promise<T>,
): Promise<T> =>
  withSystem(
    "open",
    (open) => async (file, flags, mode) => {
      const handle = await open(file, flags, mode);
      const real = handle[method].bind(handle) as (...args: never[]) => Promise<unknown>;
      return Object.assign(handle, { [method]: instead(real, String(file)) });
    },
    work,
  );
