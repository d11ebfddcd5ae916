// What tests assert over and over: numbers within a tolerance, refusals with their facts, events of an async iterable.
import assert from "node:assert/strict";
import { LowrankError } from "../../src/errors.ts";
import type { Tensor } from "../../src/tensor.ts";

/** As in NumPy's `allclose`: |got - want| <= atol + rtol·|want|. A number alone is `atol`. */
export type Tolerance = number | { atol?: number; rtol?: number };

type Numbers = number | ArrayLike<number> | Tensor;

const listOf = (numbers: Numbers): ArrayLike<number> => {
  if (typeof numbers === "number") return [numbers];
  return "data" in numbers ? (numbers.data as ArrayLike<number>) : numbers;
};

/** Asserts that numbers are as many as expected and each within the tolerance. A failure names the worst element; NaN is never near. */
export function near(got: Numbers, want: Numbers, tolerance: Tolerance, what = "the value"): void {
  const { atol = 0, rtol = 0 } = typeof tolerance === "number" ? { atol: tolerance } : tolerance;
  const [ours, theirs] = [listOf(got), listOf(want)];
  assert.equal(ours.length, theirs.length, `${what}: the number of elements`);
  let [worst, excess] = [-1, 0];
  for (let i = 0; i < theirs.length; i++) {
    const over = Math.abs(Number(ours[i]) - Number(theirs[i])) - (atol + rtol * Math.abs(Number(theirs[i])));
    if (over <= 0 || over <= excess) continue;
    worst = i;
    excess = over;
    if (Number.isNaN(over)) break;
  }
  const at = typeof want === "number" ? "" : `[${worst}]`;
  if (worst >= 0) assert.fail(`${what}${at} is ${ours[worst]}, expected ${theirs[worst]} (atol ${atol}, rtol ${rtol})`);
}

/** The greatest absolute difference of two lists, element by element. */
export function greatestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assert.equal(a.length, b.length);
  let greatest = 0;
  for (let i = 0; i < a.length; i++) greatest = Math.max(greatest, Math.abs(a[i]! - b[i]!));
  return greatest;
}

/** Facts of a refusal: a text is the whole fact, an expression is found in it, null is no fact. `text` is found in `describe()`. */
export interface Facts {
  message?: string | RegExp;
  subject?: string | RegExp | null;
  expected?: string | RegExp;
  got?: string | RegExp;
  next?: string | RegExp | null;
  text?: RegExp | readonly RegExp[];
}

function same(what: string, got: string | undefined, want: string | RegExp | null, error: LowrankError): void {
  if (!(want instanceof RegExp)) assert.equal(got ?? null, want, `${what}: ${error.describe()}`);
  else assert.match(got ?? "", want, `${what}: ${error.describe()}`);
}

/**
 * Asserts that `error` is a `LowrankError` with this code and these facts, and with a next step unless `next` is null; returns it.
 * An expression in place of facts is `text`.
 */
export function assertRefusal(error: unknown, code?: string | RegExp, facts: Facts | RegExp = {}): LowrankError {
  assert.ok(error instanceof LowrankError, error instanceof Error ? error.stack : String(error));
  if (code !== undefined) same("code", error.code, code, error);
  const { text = [], ...parts } = facts instanceof RegExp ? { text: facts } : facts;
  for (const [name, want] of Object.entries(parts)) same(name, error[name as keyof typeof parts], want, error);
  for (const pattern of [text].flat()) assert.match(error.describe(), pattern);
  if (parts.next !== null) assert.ok(error.next, `no next step: ${error.describe()}`);
  return error;
}

/** Asserts that work ends with a `LowrankError` of this code and with these facts; returns the error. */
export async function refused(
  work: Promise<unknown> | (() => unknown),
  code?: string | RegExp,
  facts?: Facts | RegExp,
): Promise<LowrankError> {
  try {
    await (typeof work === "function" ? work() : work);
  } catch (error) {
    return assertRefusal(error, code, facts);
  }
  return assert.fail(`accepted, expected ${code ?? "a refusal"}`);
}

/** `refused` for work that is not asynchronous. */
export function refusedSync(work: () => unknown, code?: string | RegExp, facts?: Facts | RegExp): LowrankError {
  try {
    work();
  } catch (error) {
    return assertRefusal(error, code, facts);
  }
  return assert.fail(`accepted, expected ${code ?? "a refusal"}`);
}

/** All items, such as the events of a training. */
export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** The events of one type. */
export const only = <E extends { type: string }, T extends E["type"]>(events: readonly E[], type: T) =>
  events.filter((event): event is Extract<E, { type: T }> => event.type === type);
