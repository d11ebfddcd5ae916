// The time that work on text may take where files of strangers steer it: regular expressions of a tokenizer, a chat template.
import type { LowrankError } from "../errors.ts";

/** The longest that one text, or one record with all its texts, may take. A book of 2 MB takes half of it. */
export const MAX_TEXT_MS = 4_000;

/**
 * Gives what `work` gives. Where the host can, work that takes longer than `MAX_TEXT_MS` is stopped wherever it is, inside
 * a regular expression too, and `slow()` is thrown. Calls may lie within each other: the time of the outermost counts, and
 * the error is that of the innermost at work.
 */
export type TimeLimit = <T>(work: () => T, slow: () => LowrankError) => T;

/** For hosts that cannot stop their own thread (a browser stops the worker instead). */
export const noTimeLimit: TimeLimit = (work) => work();
