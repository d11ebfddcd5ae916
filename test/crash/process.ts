// A lowrank process that is killed at an instant that is aimed at.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** What the processes print with --json. */
export type Printed = { type: string; step?: number; done?: number; total?: number; bytes?: number };

export interface Launched {
  process: ChildProcess;
  /** Lines of events as they come. */
  onEvent(listen: (event: Printed) => void): void;
  /** Resolves to the signal that ended it, or null; rejects when it ended on an error of its own. */
  ended: Promise<string | null>;
}

/** Starts node with the arguments of `program`, which is lowrank, and then those of the command. */
export function launch(program: readonly string[], args: readonly string[], env: NodeJS.ProcessEnv = {}): Launched {
  const child = spawn(process.execPath, [...program, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
  const listeners: ((event: Printed) => void)[] = [];
  let errors = "";
  child.stderr.on("data", (text) => {
    errors += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    // The last line of a killed process can be cut off.
    if (line.endsWith("}")) for (const listen of listeners) listen(JSON.parse(line));
  });
  const ended = new Promise<string | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status, signal) => {
      if (signal === null && status !== 0) reject(new Error(`lowrank ${args[0]} ended with ${status}: ${errors}`));
      else resolve(signal);
    });
  });
  ended.catch(() => {});
  return { process: child, onEvent: (listen) => void listeners.push(listen), ended };
}

export async function finish({ ended }: Launched): Promise<void> {
  assert.equal(await ended, null, "something else killed the process");
}

/**
 * Kills the process `ms` after `arm` calls what it is given; false if it came to its end before that. `arm` may return what
 * ends its own watching.
 */
export async function killedAfter(
  child: Launched,
  ms: number,
  arm: (shoot: () => void) => { close(): void } | undefined,
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const watching = arm(() => {
    timer ??= setTimeout(() => child.process.kill("SIGKILL"), ms);
  });
  try {
    return (await child.ended) === "SIGKILL";
  } finally {
    clearTimeout(timer);
    watching?.close();
  }
}
