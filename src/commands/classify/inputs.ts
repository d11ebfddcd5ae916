// The texts and images of predictions: what flags and arguments name, or the lines of standard input; a block at a time.
import { createInterface } from "node:readline";
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { option } from "../../options.ts";

/** Inputs that are read, predicted and printed at once; their results are in memory. */
const BLOCK = 64;

/** How inputs are given. */
export const inputOptions = {
  text: option(z.array(z.string()).optional(), { help: "a text; can be repeated (lines of standard input)" }),
  image: option(z.array(z.string()).optional(), {
    value: "FILE",
    help: "an image: PNG, JPEG or WebP; can be repeated, and files can follow the flags as well",
  }),
  files: option(z.array(z.string()).optional(), { help: "image files" }),
};

/** The lines of standard input that are not empty. Fails where there are none, and where nobody pipes anything in. */
export async function* inputLines(expected: string): AsyncGenerator<string, void, void> {
  let isEmpty = true;
  const isTerminal = process.stdin.isTTY;
  for await (const line of isTerminal ? [] : createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY })) {
    if (line.trim() === "") continue;
    isEmpty = false;
    yield line;
  }
  if (!isEmpty) return;
  throw new LowrankError("cli/usage", `there is no input${isTerminal ? "" : ": standard input has no line"}`, {
    expected: `${expected}, or lines on standard input`,
    next: "Give one of them.",
  });
}

/** Some items together, in order. */
export async function* inBatches<T>(items: Iterable<T> | AsyncIterable<T>): AsyncGenerator<T[], void, void> {
  let block: T[] = [];
  for await (const item of items) {
    block.push(item);
    if (block.length === BLOCK) {
      yield block;
      block = [];
    }
  }
  if (block.length > 0) yield block;
}
