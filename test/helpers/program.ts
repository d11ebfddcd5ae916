// The command line: as a process of its own, and inside the test's process where only what it prints counts.
import { spawn } from "node:child_process";
import { Readable } from "node:stream";
import { mock } from "node:test";
import { main } from "../../src/cli/program.ts";
import { compiled, repository } from "./repository.ts";

/** Arguments for `process.execPath` that start the command line, in any working folder. */
export const programArgs = [compiled("src/cli/main.ts")];

export interface Printed<Status = number> {
  status: Status;
  stdout: string;
  stderr: string;
}

type OnOutput = (text: string, kill: (signal: NodeJS.Signals) => void) => void;

export interface ProcessOptions {
  /** The working folder; the repository unless given. */
  cwd?: string;
  /** Variables beside those of this process. */
  env?: Record<string, string>;
  /** Standard input; empty unless given. */
  input?: string;
  /** These see standard output and standard error as they grow. */
  onOutput?: OnOutput;
  onError?: OnOutput;
}

/** Runs `lowrank ...args` as a process; the status is null when a signal ended it. */
export function lowrank(args: readonly string[], options: ProcessOptions = {}): Promise<Printed<number | null>> {
  const { cwd = repository, env, input = "", onOutput, onError } = options;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...programArgs, ...args], { cwd, env: { ...process.env, ...env } });
    const kill = (signal: NodeJS.Signals) => void child.kill(signal);
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      onOutput?.(stdout, kill);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
      onError?.(stderr, kill);
    });
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, stdout, stderr }));
    child.stdin.on("error", () => {}); // a refused command reads none of it
    child.stdin.end(input);
  });
}

/** Runs the command line in this process, with nothing on standard input. */
export const printed = (...args: string[]): Promise<Printed> => printedFor("", ...args);

/** Runs the command line in this process, with `input` on standard input. Bytes that the test runner writes meanwhile pass through. */
export async function printedFor(input: string, ...args: string[]): Promise<Printed> {
  const stdin = Object.getOwnPropertyDescriptor(process, "stdin")!;
  Object.defineProperty(process, "stdin", { ...stdin, get: () => Readable.from([Buffer.from(input)]) });
  const written = { stdout: "", stderr: "" };
  const mocks = (["stdout", "stderr"] as const).map((name) => {
    const write = process[name].write.bind(process[name]);
    return mock.method(process[name], "write", (text: string | Uint8Array) => {
      if (typeof text !== "string") return write(text);
      written[name] += text;
      return true;
    });
  });
  try {
    return { status: await main(args), ...written };
  } finally {
    for (const { mock } of mocks) mock.restore();
    Object.defineProperty(process, "stdin", stdin);
  }
}

/** The values of a text with one JSON value a line. */
export const jsonLines = <T = Record<string, unknown>>(text: string): T[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as T);
