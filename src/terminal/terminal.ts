// The one way to standard output (results) and standard error (everything else): what is written is made harmless here, and what
// cannot be written is a failure.
import { fstatSync, writeSync } from "node:fs";
import { getSystemErrorMap } from "node:util";
import { LowrankError } from "../errors.ts";
import { shown, shownLine } from "../units.ts";

/** Stands around the program's own control sequences. No text from elsewhere can have it. */
const OWN = `\u{10ffff}${crypto.randomUUID()}\u{10ffff}`;

/** A control sequence of the program's own, for text that goes to `print`, `note` or `screen`. */
export const control = (sequence: string): string => `${OWN}${sequence}${OWN}`;

/** A text as it goes to a terminal: with the program's own control sequences, and no others. */
export const terminalText = (text: string, safe = shown): string =>
  text
    .split(OWN)
    .map((part, i) => (i % 2 === 1 ? part : safe(part)))
    .join("");

/** Whether the line of `status` is on the terminal. */
let isStatusShown = false;

/** Text in the place of the line of `status`. */
function write(stream: NodeJS.WriteStream, text: string | Uint8Array): void {
  if (failure && !isReported && !whenLost) {
    isReported = true;
    throw failure;
  }
  if (isStatusShown) put(process.stderr, "\r\x1b[K");
  isStatusShown = false;
  put(stream, text);
}

/** Writes to a stream unless that has failed before, or another process speaks. */
function put(stream: NodeJS.WriteStream, text: string | Uint8Array): void {
  if (!lost.has(stream) && !isSilenced) stream.write(text);
}

let isSilenced = false;

/** Prints nothing from now on: another process says the same. */
export function silence(isSilent = true): void {
  isSilenced = isSilent;
}

const linesOf = (lines: readonly string[]): string => lines.map((line) => `${terminalText(line, shownLine)}\n`).join("");

/** Lines of results. A line break inside one is shown and makes none, so that no text of others looks like a line of its own. */
export const print = (...lines: readonly string[]): void => write(process.stdout, linesOf(lines));

/** One JSON object on a line of its own. Numbers that JSON has no way to write become null. */
export const printJson = (value: unknown): void => print(JSON.stringify(value));

/** Lines that are no results: progress, notes. */
export const note = (...lines: readonly string[]): void => write(process.stderr, linesOf(lines));

/** A line that whatever is printed next overwrites, where standard error is a terminal; elsewhere nothing, and false. */
export function status(text: string): boolean {
  if (process.stderr.isTTY !== true) return false;
  put(process.stderr, `\r\x1b[K${shownLine(text).slice(0, (process.stderr.columns || 80) - 1)}`);
  isStatusShown = true;
  return true;
}

/** Where text goes that comes in parts, with line breaks of its own, and how wide that is now. */
export interface Screen {
  write(text: string): void;
  columns(): number;
}

/** Standard output. */
export const screen: Screen = {
  write: (text) => write(process.stdout, terminalText(text)),
  columns: () => process.stdout.columns || 80,
};

/** What Node's line editor draws, with control sequences of its own: what the person at the terminal types. */
export const echo = (drawn: string | Uint8Array): void => write(process.stdout, drawn);

/** The output streams that take nothing any more. */
const lost = new Set<NodeJS.WriteStream>();
/** Why one of them does not, unless its reader went away; and whether the command or `afterOutput` has it already. */
let failure: LowrankError | null = null;
let isReported = false;
let whenLost: (() => void) | null = null;

/**
 * Does `work` when the output is lost. Otherwise a command ends at once, with 0, where the reader goes away (a closed pipe or
 * terminal, as in `lowrank inspect … | head`), and with `output/failed` from its next line of output for any other reason.
 */
export function onLostOutput(work: () => void): void {
  whenLost = work;
}

/** Called before anything is printed: failures of the output streams are heard of, and files take all of a text or fail. */
export function guardOutput(): void {
  for (const [name, stream] of [["standard output", process.stdout] as const, ["standard error", process.stderr] as const]) {
    stream.on("error", (error: NodeJS.ErrnoException) => outputFailed(stream, name, error));
    if (isFile(stream.fd)) stream._write = wholeWrites(stream.fd);
  }
}

function isFile(descriptor: number): boolean {
  try {
    return fstatSync(descriptor).isFile();
  } catch {
    return false; // Windows has no answer for a console
  }
}

function outputFailed(stream: NodeJS.WriteStream, subject: string, error: NodeJS.ErrnoException): void {
  if (lost.has(stream)) return;
  lost.add(stream);
  const isUnread = error.code === "EPIPE" || error.code === "EIO";
  if (isUnread && !whenLost) process.exit(0);
  const reason = getSystemErrorMap().get(error.errno ?? 0)?.[1] ?? error.message;
  if (!isUnread)
    failure ??= new LowrankError("output/failed", `the output could not be written: ${reason}`, {
      subject,
      next: "Free some space, or redirect the output elsewhere, and run again; train resumes where it stopped (--resume).",
      exitCode: 1,
      cause: error,
    });
  whenLost?.();
}

/** Node writes a text to a file in one call, and takes no notice where the file has room for its beginning only. */
function wholeWrites(file: number): NodeJS.WriteStream["_write"] {
  return (bytes: Uint8Array, _, done) => {
    try {
      for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
      done();
    } catch (error) {
      done(error as Error);
    }
  };
}

/** Waits until everything printed is out. The exit status: `status`, or 1 after printing why it is not. */
export async function afterOutput(status: number, json: boolean): Promise<number> {
  for (const stream of [process.stdout, process.stderr]) {
    if (stream.writableLength > 0 && !lost.has(stream)) await new Promise((resolve) => stream.write("", resolve));
  }
  await new Promise(setImmediate); // failures are heard of a tick later
  if (!failure) return status;
  const wasReported = isReported;
  isReported = true;
  if (!wasReported) printError(failure, json);
  return 1;
}

/** Prints a failure and returns the process's exit status: the error's own, or 1 for one that nobody foresaw. */
export function printError(error: unknown, json: boolean): number {
  if (error instanceof LowrankError) {
    note(...(json ? [JSON.stringify(error)] : `lowrank: ${error.describe()}`.split("\n")));
    return error.exitCode;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const bug = "this is a bug in lowrank. Please report it with the command, the lines above and the output of lowrank --version.";
  note(...(json ? [JSON.stringify({ error: "internal", message: text })] : [...text.split("\n"), `lowrank: ${bug}`]));
  return 1;
}

/** Text of lesser weight, where colours are not unwanted (no-color.org). */
export const faint = (text: string): string =>
  process.env["NO_COLOR"] ? text : `${control("\x1b[2m")}${text}${control("\x1b[22m")}`;
