// One measurement: a command in a process of its own, watched from outside until it ends.
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/** What a tool prints as its last line; each side adds some of its own. */
export interface Printed {
  seconds: number;
  tokens_per_second: number;
  /** Processor time of a step, or of a token, over all threads. */
  cpu_seconds?: number;
  rss_mb?: number;
  [more: string]: unknown;
}

export interface Measured extends Printed {
  /** Sum over the process and its children of the most memory that each has held. */
  peak_mb: number;
  /** From the command's start to its line "first step". */
  cold_start_seconds: number | null;
  wall_seconds: number;
}

/** A command that did not end with numbers: out of memory or time, or an error. */
export interface Failed {
  failed: string;
}

export interface Limits {
  /** Seconds after which a command is stopped. */
  seconds: number;
  /** Resident memory above which it is stopped. */
  megabytes: number;
}

const POLL_MS = 50;

function children(pid: number): number[] {
  try {
    const tasks = readdirSync(`/proc/${pid}/task`);
    return tasks.flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").split(" ").filter(Boolean).map(Number),
    );
  } catch {
    return []; // it has ended, or there is no /proc
  }
}

const tree = (pid: number): number[] => [pid, ...children(pid).flatMap(tree)];

/** Peak and present resident memory of a process in megabytes (2^20 bytes), as Linux counts them. */
function residentMegabytes(pid: number): { peak: number; now: number } {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0) / 1024;
    return { peak: field("VmHWM"), now: field("VmRSS") };
  } catch {
    return { peak: 0, now: 0 };
  }
}

/** Runs a command and reads its last line as JSON. On systems without /proc the peak is the tool's own `rss_mb`. */
export function measure(command: string, args: readonly string[], limits: Limits): Promise<Measured | Failed> {
  const began = performance.now();
  const elapsed = () => (performance.now() - began) / 1000;
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  const peaks = new Map<number, number>();
  let [output, complaints] = ["", ""];
  let coldStart: number | null = null;
  let stopped: string | undefined;
  const watch = setInterval(() => {
    let held = 0;
    for (const pid of tree(child.pid!)) {
      const { peak, now } = residentMegabytes(pid);
      peaks.set(pid, Math.max(peaks.get(pid) ?? 0, peak));
      held += now;
    }
    if (held > limits.megabytes) stopped = `more than ${Math.round(limits.megabytes)} MB`;
    if (elapsed() > limits.seconds) stopped = `more than ${limits.seconds} s`;
    if (stopped) for (const pid of tree(child.pid!)) kill(pid);
  }, POLL_MS);
  child.stdout.on("data", (chunk) => {
    output += chunk;
    if (coldStart === null && /^first step$/m.test(output)) coldStart = elapsed();
  });
  child.stderr.on("data", (chunk) => {
    complaints = (complaints + chunk).slice(-2000);
  });
  return new Promise((resolve) => {
    const end = (result: Measured | Failed) => {
      clearInterval(watch);
      resolve(result);
    };
    child.on("error", (error) => end({ failed: error.message }));
    child.on("close", (code, signal) => {
      if (stopped || code !== 0) {
        const last = complaints.trim().split("\n").at(-1) ?? "";
        return end({ failed: stopped ?? `ended with ${signal ?? code}: ${last}` });
      }
      const line = output.trim().split("\n").at(-1) ?? "";
      try {
        const printed = JSON.parse(line) as Printed;
        const sum = [...peaks.values()].reduce((total, peak) => total + peak, 0);
        const peak_mb = Math.round(sum || (printed.rss_mb ?? 0));
        end({ ...printed, peak_mb, cold_start_seconds: coldStart && rounded(coldStart), wall_seconds: rounded(elapsed()) });
      } catch {
        end({ failed: `its last line is no JSON: ${line.slice(0, 200)}` });
      }
    });
  });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

const rounded = (seconds: number): number => Number(seconds.toFixed(2));
