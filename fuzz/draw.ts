// Random choices of one fuzz run, from the project's counter-based generator: the same seed and run give the same choices.
import { purpose, uniform } from "../src/random.ts";

export interface Draw {
  /** A number in [0, 1). */
  next(): number;
  /** An integer from 0 to below `end`. */
  below(end: number): number;
  pick<T>(list: readonly T[]): T;
}

const POOL = 256;

/** The choices of run `run` of stream `stream` under `seed`. */
export function drawsOf(seed: number, stream: number, run: number): Draw {
  // 2^16 streams under a seed, 2^32 runs in each.
  let pool = uniform(seed * 65_536 + stream, [purpose.sample, run], POOL);
  let at = 0;
  const next = (): number => {
    if (at === pool.length) pool = uniform(seed * 65_536 + stream, [purpose.sample, run], pool.length * 2);
    return pool[at++]!;
  };
  const below = (end: number): number => Math.floor(next() * end);
  return { next, below, pick: (list) => list[below(list.length)]! };
}
