// The one error class of the project: what failed, what was expected, what was found, and the next step.
import { shown } from "./units.ts";

export interface Failure {
  /** The file, tensor, option or module the failure is about, as the user would name it. */
  subject?: string;
  expected?: string;
  got?: string;
  /** What to do next, as an instruction. */
  next?: string;
  /** Process exit status when the command line ends on it: 2 for wrong input (the default), 1 for a failure at work. */
  exitCode?: 1 | 2;
  cause?: unknown;
}

/** Longest text of one fact. What a file holds is quoted in errors, and a key or a token can be megabytes. */
const MAX_FACT_CHARS = 2000;

/** A fact as a terminal can show it, cut where it is long. */
const printable = (fact: string): string =>
  shown(fact.length > MAX_FACT_CHARS ? `${fact.slice(0, MAX_FACT_CHARS)}… (${fact.length} characters)` : fact);

/** A value of a file or an option as JSON, for the facts of a failure; it can be nested deeper than can be written. */
export function valueText(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "nothing";
  } catch {
    return "a value without an end";
  }
}

/**
 * A failure that a person can act on. `message` says what failed; the other fields are printed below it.
 * `code` is stable and machine-readable (`safetensors/overlap`, `lora/no-match`, …).
 */
export class LowrankError extends Error {
  override readonly name = "LowrankError";
  readonly subject?: string;
  readonly expected?: string;
  readonly got?: string;
  readonly next?: string;
  readonly exitCode: 1 | 2;

  constructor(
    readonly code: string,
    message: string,
    failure: Failure = {},
  ) {
    super(printable(message), failure.cause === undefined ? undefined : { cause: failure.cause });
    const fact = (text?: string) => (text === undefined ? undefined : printable(text));
    this.subject = fact(failure.subject);
    this.expected = fact(failure.expected);
    this.got = fact(failure.got);
    this.next = fact(failure.next);
    this.exitCode = failure.exitCode ?? 2;
  }

  /** The whole failure as text, one fact a line; further lines of a fact are indented, so that none looks like another fact. */
  describe(): string {
    const lines = [this.subject ? `${this.subject}: ${this.message}` : this.message];
    if (this.expected) lines.push(`  expected: ${this.expected}`);
    if (this.got) lines.push(`  found:    ${this.got}`);
    if (this.next) lines.push(`  next:     ${this.next}`);
    return lines.map((line) => line.replaceAll("\n", `\n${" ".repeat(12)}`)).join("\n");
  }

  toJSON(): Record<string, unknown> {
    const { code, message, subject, expected, got, next } = this;
    return { error: code, message, subject, expected, got, next };
  }
}

/** The failure with more to do next. */
export function withNext(error: LowrankError, more: string): LowrankError {
  const { code, message, next, cause } = error;
  return new LowrankError(code, message, { ...error, cause, next: next ? `${next} ${more}` : more });
}

/** The entries of `names` nearest to `wanted` by edit distance, for "did you mean" lines. */
export function nearest(wanted: string, names: Iterable<string>, count = 3): string[] {
  return [...new Set(names)]
    .map((name) => ({ name, distance: editDistance(wanted, name) }))
    .sort((a, b) => a.distance - b.distance || (a.name < b.name ? -1 : 1))
    .slice(0, count)
    .map(({ name }) => name);
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}
