// What commands print with: results on standard output, everything else on standard error.
import { LowrankError } from "../errors.ts";
import { cells } from "./columns.ts";

export { oneLine, shown } from "../units.ts";

/** Whether the line of `status` is on the terminal. */
let isStatusShown = false;

/** A line of text, in the place of that of `status`. */
function write(stream: NodeJS.WriteStream, text: string): void {
  if (isStatusShown) process.stderr.write("\r\x1b[K");
  isStatusShown = false;
  stream.write(`${text}\n`);
}

/** One line of results. */
export const print = (text: string): void => write(process.stdout, text);

/** One JSON object on a line of its own. Numbers that JSON has no way to write become null. */
export const printJson = (value: unknown): void => print(JSON.stringify(value));

/** A line that is no result: progress, notes. */
export const note = (text: string): void => write(process.stderr, text);

/** A line that whatever is printed next overwrites, where standard error is a terminal; elsewhere nothing, and false. */
export function status(text: string): boolean {
  if (process.stderr.isTTY !== true) return false;
  process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns || 80) - 1)}`);
  isStatusShown = true;
  return true;
}

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
    note(json ? JSON.stringify(error) : `lowrank: ${error.describe()}`);
    return error.exitCode;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const bug = "this is a bug in lowrank. Please report it with the command, the lines above and the output of lowrank --version.";
  note(json ? JSON.stringify({ error: "internal", message: text }) : `${text}\nlowrank: ${bug}`);
  return 1;
}

/** Text of lesser weight, where colours are not unwanted (no-color.org). */
export const faint = (text: string): string => (process.env["NO_COLOR"] ? text : `\x1b[2m${text}\x1b[22m`);

/** The spaces that a text needs to be `width` cells wide. */
const spaces = (text: string, width: number) => " ".repeat(Math.max(0, width - cells(text)));

/** Rows of cells with the columns lined up: the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => cells(row[column]!))));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell + spaces(cell, widths[i]!) : spaces(cell, widths[i]!) + cell)).join("  ");
  return rows.map((row) => line(row).trimEnd()).join("\n");
}

/** Names and values, the values in a column. */
export function list(facts: readonly (readonly string[])[]): string {
  const width = Math.max(...facts.map(([name]) => cells(name!)));
  return facts.map(([name, value]) => `${name}${spaces(name!, width)}  ${value}`.trimEnd()).join("\n");
}
