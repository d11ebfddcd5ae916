// How far what was computed is from what PEFT computed, and whether that is near enough.
import { isDeepStrictEqual } from "node:util";
import { LowrankError } from "../../src/errors.ts";

/** One thing compared. `text` says how near it is (nothing where it is equal), or what differs and by how much. */
export interface Finding {
  what: string;
  ok: boolean;
  text: string;
}

export type Numbers = ArrayLike<number>;
/** The largest difference allowed at an element whose golden value is `want`. */
export type Limit = (want: number) => number;

/** The goldens' tolerances: PEFT's own float32 numbers are several times nearer to float64 than this. */
export const limits = {
  outputs: () => 3e-5,
  loss: () => 1e-5,
  gradient: (want: number) => 1e-5 + 1e-4 * Math.abs(want),
  gradientNorm: (want: number) => 1e-5 + 1e-4 * want,
  losses: () => 1e-4,
  learningRate: (want: number) => 1e-12 + 1e-9 * Math.abs(want),
  trained: () => 1e-4,
  merged: () => 1e-5,
  combined: () => 1e-5,
  /** A run on a real model; a norm of 0 must be 0: loraA has no gradient while loraB is zero. */
  realLoss: () => 1e-3,
  realTensorNorm: (want: number) => 1e-3 * want,
  realNorm: (want: number) => 1e-3 * want,
  /** An element with next to no gradient moves by the learning rate (5e-4) in either direction: some end apart. */
  realTrained: () => 3e-3,
} satisfies Record<string, Limit>;

/** The checks of a kind of golden, by name. */
export type Checks<Golden> = Record<string, (golden: Golden) => Finding[] | Promise<Finding[]>>;

/** Runs every check; one that throws is a failure of its own and stops no other. */
export async function runChecks<Golden>(checks: Checks<Golden>, golden: Golden): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [what, check] of Object.entries(checks)) {
    try {
      findings.push(...(await check(golden)));
    } catch (error) {
      findings.push({ what, ok: false, text: oneLine(error) });
    }
  }
  return findings;
}

/** A failure as one line. */
export function oneLine(error: unknown): string {
  if (!(error instanceof LowrankError)) return String(error);
  const { subject, message, expected, got } = error;
  const facts = [expected ? `expected ${expected}` : "", got ? `found ${got}` : ""].filter(Boolean).join(", ");
  return `${subject ? `${subject}: ` : ""}${message}${facts ? ` (${facts})` : ""}`.replace(/\s+/g, " ");
}

const short = (value: number): string => (value === 0 ? "0" : value.toExponential(1));
const exact = (value: number): string => String(Number(value.toPrecision(8)));

/** Compares arrays of numbers by name, element by element; both sides must have the same names and lengths. */
export function near(what: string, got: ReadonlyMap<string, Numbers>, want: ReadonlyMap<string, Numbers>, limit: Limit): Finding {
  const different = differentNames(got.keys(), want.keys());
  if (different) return { what, ok: false, text: different };
  if (want.size === 0) return { what, ok: false, text: "nothing to compare" };
  let worst = { excess: -1, difference: 0, text: "" };
  for (const [name, theirs] of want) {
    const ours = got.get(name)!;
    if (ours.length !== theirs.length) {
      return { what, ok: false, text: `${name} has ${ours.length} elements, not ${theirs.length}` };
    }
    for (let i = 0; i < theirs.length; i++) {
      const difference = Math.abs(ours[i]! - theirs[i]!);
      const allowed = limit(theirs[i]!);
      // A difference of NaN is beyond any limit.
      const excess = difference <= allowed ? difference / (allowed || 1) : difference / allowed || Infinity;
      if (excess <= worst.excess) continue;
      const place = theirs.length > 1 ? `${name} [${i}]` : name;
      const values = `${place}: ${exact(ours[i]!)}, not ${exact(theirs[i]!)}`;
      worst = { excess, difference, text: `differs by ${short(difference)} (allowed ${short(allowed)}) at ${values}` };
    }
  }
  return worst.excess <= 1 ? { what, ok: true, text: short(worst.difference) } : { what, ok: false, text: worst.text };
}

/** Compares two lists of numbers. */
export const nearList = (what: string, got: Numbers, want: Numbers, limit: Limit): Finding =>
  near(what, new Map([[what, got]]), new Map([[what, want]]), limit);

/** Compares two numbers. */
export const nearNumber = (what: string, got: number, want: number, limit: Limit): Finding =>
  nearList(what, [got], [want], limit);

/** Compares lists of anything for equality; at the first difference the item is shown. */
export function same(what: string, got: readonly unknown[], want: readonly unknown[]): Finding {
  if (got.length !== want.length) return { what, ok: false, text: `there are ${got.length}, not ${want.length}` };
  const at = want.findIndex((item, i) => !isDeepStrictEqual(got[i], item));
  if (at < 0 && want.length > 0) return { what, ok: true, text: "" };
  const text = at < 0 ? "nothing to compare" : `item ${at} is ${shown(got[at])}, not ${shown(want[at])}`;
  return { what, ok: false, text };
}

/** Which names only one side has, or null. */
export function differentNames(got: Iterable<string>, want: Iterable<string>): string | null {
  const [ours, theirs] = [new Set(got), new Set(want)];
  const missing = [...theirs].filter((name) => !ours.has(name));
  const extra = [...ours].filter((name) => !theirs.has(name));
  if (missing.length + extra.length === 0) return null;
  const list = (names: string[]) => `${names.slice(0, 3).join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;
  return [missing.length ? `missing ${list(missing)}` : "", extra.length ? `has in addition ${list(extra)}` : ""]
    .filter(Boolean)
    .join("; ");
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 160 ? `${text.slice(0, 157)}…` : text;
}
