// Signals that stop a command: the first lets it end in order, a second Ctrl+C ends the process.
import { LowrankError } from "../errors.ts";
import { note, onLostOutput, printError } from "./terminal.ts";

/** Exit status of a process that ended on a signal, as shells give it. SIGUSR2 is what mpirun passes on and does not end the job by. */
const signals = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143, SIGUSR2: 140 } as const;
type Signal = keyof typeof signals;

export interface Stopping {
  signal: AbortSignal;
  /** The exit status if the command was stopped, else 0. */
  status(): number;
}

/** Does `work`, with a signal that fires when the process gets one of these or its output goes nowhere any more. */
export async function stoppable<T>(onStop: () => string, work: (stopping: Stopping) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  let status = 0;
  const interrupt = (signal: Signal) => {
    // Others come twice where nobody means it: a terminal that closes sends SIGHUP, and the shell too; Slurm ends a step, and its job too.
    if (status && signal !== "SIGINT") return;
    if (status) process.exit(signals[signal]);
    status = signals[signal];
    stop.abort();
    note("", `${onStop()} Ctrl+C again stops at once.`);
  };
  const names = Object.keys(signals) as Signal[];
  for (const name of names) process.on(name, interrupt);
  onLostOutput(() => interrupt("SIGHUP"));
  try {
    return await work({ signal: stop.signal, status: () => status });
  } finally {
    for (const name of names) process.off(name, interrupt);
  }
}

/** The exit status for an error that says that the command was stopped; any other error is thrown. */
export function stoppedStatus(error: unknown, { status }: Stopping, json: boolean): number {
  if (!(status() && error instanceof LowrankError && error.code.endsWith("/stopped"))) throw error;
  printError(error, json);
  return status();
}
