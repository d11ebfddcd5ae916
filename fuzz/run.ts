// One fuzz run: which input it damages and how is a pure function of the seed, the target's name and the run's number.
import { LowrankError } from "../src/errors.ts";
import { memoryFiles } from "../test/helpers/memory-files.ts";
import { drawsOf } from "./draw.ts";
import { mutate } from "./mutate.ts";
import type { Contents, Target } from "./targets.ts";

/** The streams of two names differ, and a new target does not change those of the others. */
const streamOf = (name: string): number => [...name].reduce((hash, letter) => (hash * 31 + letter.charCodeAt(0)) % 65_536, 7);

/** The damaged files of a run. */
export function inputOf({ name, inputs }: Target, seed: number, run: number): Contents {
  const draw = drawsOf(seed, streamOf(name), run);
  const good = draw.pick(inputs);
  const file = draw.pick(Object.keys(good));
  return { ...good, [file]: mutate(good[file]!, draw) };
}

export interface Outcome {
  /** Whether the reader refused the input with an error that a person can act on. */
  refused: boolean;
  /** Any other error. */
  fault?: string;
}

/** Reads a damaged input. A reader gives a value or throws a LowrankError with a next step; anything else is a fault. */
export async function runOnce(target: Target, seed: number, run: number): Promise<Outcome> {
  try {
    await target.read(memoryFiles(inputOf(target, seed, run)));
    return { refused: false };
  } catch (error) {
    if (!(error instanceof LowrankError)) return { refused: true, fault: String((error as Error)?.stack ?? error) };
    // Files in memory have one error of their own, which stands for Node's.
    const told = error.next !== undefined || error.code.startsWith("file/");
    if (!told) return { refused: true, fault: `an error without a next step: ${error.describe()}\n${error.stack}` };
    return error.describe().length < 10_000
      ? { refused: true }
      : { refused: true, fault: `an error of ${error.describe().length} characters\n${error.stack}` };
  }
}
