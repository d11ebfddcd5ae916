// The one way to standard output (results) and standard error (everything else): what is written is made harmless here.
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
function write(stream: NodeJS.WriteStream, text: string): void {
  if (isStatusShown) process.stderr.write("\r\x1b[K");
  isStatusShown = false;
  stream.write(text);
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
  process.stderr.write(`\r\x1b[K${shownLine(text).slice(0, (process.stderr.columns || 80) - 1)}`);
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
export const echo = (drawn: string | Uint8Array): void => void process.stdout.write(drawn);

let outputLost: () => void = () => process.exit(0);

/** Does `work` when the output goes nowhere any more (a closed pipe or terminal), where a command would just end. */
export function onLostOutput(work: () => void): void {
  outputLost = work;
}

/** For errors of the output streams, of which commands hear otherwise as of nothing. */
export function outputFailed(error: NodeJS.ErrnoException): void {
  if (error.code !== "EPIPE" && error.code !== "EIO") throw error;
  outputLost();
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
