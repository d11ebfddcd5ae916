// Choices for made data: a sequence of uniform numbers under a seed, and what is picked with them.
import { purpose, uniform } from "../../src/random.ts";

export interface Draw {
  /** Uniform in [0, 1). */
  next(): number;
  /** A whole number below `n`. */
  below(n: number): number;
  pick<T>(items: readonly T[]): T;
  /** All of `items`, in another order. */
  shuffled<T>(items: readonly T[]): T[];
}

const BLOCK = 4096;

/** The numbers of stream `stream` under `seed`. */
export function makeDraw(seed: number, stream: number): Draw {
  let block = 0;
  let at = BLOCK;
  let numbers: Float32Array = new Float32Array();
  const next = () => {
    if (at === BLOCK) {
      numbers = uniform(seed, [purpose.sample, stream, block++], BLOCK);
      at = 0;
    }
    return numbers[at++]!;
  };
  const below = (n: number) => Math.floor(next() * n);
  return {
    next,
    below,
    pick: (items) => items[below(items.length)]!,
    shuffled(items) {
      const order = [...items];
      for (let i = order.length - 1; i > 0; i--) {
        const j = below(i + 1);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      return order;
    },
  };
}
