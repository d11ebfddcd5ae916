// Programs under mpirun, for each MPI that is installed.
import { spawn, spawnSync } from "node:child_process";
import { test as nodeTest } from "node:test";
import { compiled } from "../helpers/repository.ts";

export type Flavour = "openmpi" | "mpich";

/** Debian's names of the launchers, and what they need to start more processes than there are cores, as root too. */
const launchers: Record<Flavour, { command: string; options: readonly string[] }> = {
  openmpi: { command: "mpirun.openmpi", options: ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"] },
  mpich: { command: "mpirun.mpich", options: [] },
};

export const flavours = Object.keys(launchers) as Flavour[];

export const isInstalled = (flavour: Flavour): boolean =>
  spawnSync(launchers[flavour].command, ["--version"], { stdio: "ignore" }).status === 0;

export interface Ended {
  /** Exit status of mpirun; null where it did not end in time and was killed. */
  code: number | null;
  stdout: string;
  stderr: string;
  seconds: number;
}

/** Milliseconds after which a job is killed; a test that waits longer has found a job that hangs. */
const MOST_MS = 300_000;

/** Runs a TypeScript file (path from the repository's root) on `n` processes, to its end. */
export function mpirun(
  flavour: Flavour,
  n: number,
  script: string,
  args: readonly string[] = [],
  { env = {}, onOutput }: { env?: Record<string, string>; onOutput?: (text: string) => void } = {},
): Promise<Ended> {
  const { command, options } = launchers[flavour];
  const started = performance.now();
  const child = spawn(command, [...options, "-n", String(n), process.execPath, compiled(script), ...args], {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: MOST_MS,
    killSignal: "SIGKILL",
  });
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => {
      texts[name] += text;
      onOutput?.(text);
    });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, ...texts, seconds: (performance.now() - started) / 1000 }));
  });
}

/** What the processes of a job have printed as lines of JSON, in the order of their ranks. */
export function said<T extends { rank: number }>({ stdout }: Ended): T[] {
  const lines = stdout.split(/\r?\n/).filter((line) => line.startsWith("{"));
  return lines.map((line) => JSON.parse(line) as T).sort((a, b) => a.rank - b.rank);
}

/** A test for each MPI that is installed; for the others one that is skipped. */
export function testEach(name: string, body: (flavour: Flavour) => Promise<void>): void {
  for (const flavour of flavours) {
    const skip = isInstalled(flavour) ? false : `${launchers[flavour].command} is not installed`;
    nodeTest(`${flavour}: ${name}`, { skip }, () => body(flavour));
  }
}
