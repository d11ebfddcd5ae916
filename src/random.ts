// Seeded random numbers without state: Threefry4x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
import { LowrankError } from "./errors.ts";

/** What numbers are drawn for. Each purpose has its own streams, so that none ever repeats another's numbers. */
export const purpose = { init: 0, dropout: 1, shuffle: 2, sample: 3, weights: 4, prune: 5, svd: 6 } as const;

/** Names one sequence of numbers under a seed: a purpose and up to three 32-bit coordinates, such as step and micro-batch. */
export type Stream = readonly [purpose: number, a?: number, b?: number, c?: number];

/** The paper finds no failure in BigCrush from 12 rounds on; Random123 publishes test vectors for 13 and 20. */
const ROUNDS = 13;
const ROTATIONS = [10, 26, 11, 21, 13, 27, 23, 5, 6, 20, 17, 11, 25, 10, 18, 20];
const PARITY = 0x1bd11bda;

/** Threefry4x32: encrypts each counter `[first + i, c1, c2, c3]` under `key`; fills `out` with 4 words a counter. */
export function threefry4x32(key: ArrayLike<number>, counter: ArrayLike<number>, out: Uint32Array, rounds = ROUNDS): Uint32Array {
  const schedule = [key[0]! | 0, key[1]! | 0, key[2]! | 0, key[3]! | 0, PARITY ^ key[0]! ^ key[1]! ^ key[2]! ^ key[3]!];
  for (let at = 0, block = counter[0]!; at < out.length; at += 4, block++) {
    let x0 = (block + schedule[0]!) | 0;
    let x1 = (counter[1]! + schedule[1]!) | 0;
    let x2 = (counter[2]! + schedule[2]!) | 0;
    let x3 = (counter[3]! + schedule[3]!) | 0;
    for (let round = 0; round < rounds; round++) {
      const r = (round & 7) * 2;
      const left = ROTATIONS[r]!;
      const right = ROTATIONS[r + 1]!;
      // The words that are mixed alternate: (0,1) (2,3), then (0,3) (2,1).
      if (round & 1) {
        x0 = (x0 + x3) | 0;
        x3 = ((x3 << left) | (x3 >>> (32 - left))) ^ x0;
        x2 = (x2 + x1) | 0;
        x1 = ((x1 << right) | (x1 >>> (32 - right))) ^ x2;
      } else {
        x0 = (x0 + x1) | 0;
        x1 = ((x1 << left) | (x1 >>> (32 - left))) ^ x0;
        x2 = (x2 + x3) | 0;
        x3 = ((x3 << right) | (x3 >>> (32 - right))) ^ x2;
      }
      if ((round & 3) === 3) {
        const k = (round + 1) >> 2;
        x0 = (x0 + schedule[k % 5]!) | 0;
        x1 = (x1 + schedule[(k + 1) % 5]!) | 0;
        x2 = (x2 + schedule[(k + 2) % 5]!) | 0;
        x3 = (x3 + schedule[(k + 3) % 5]! + k) | 0;
      }
    }
    out[at] = x0;
    out[at + 1] = x1;
    out[at + 2] = x2;
    out[at + 3] = x3;
  }
  return out;
}

/** Words are made this many at a time, so that a pool of millions needs no second buffer of its size. */
const CHUNK = 4096;

/** Calls `use(words, start)` with consecutive chunks of the stream's 32-bit words until `count` words have been made. */
function eachChunk(seed: number, stream: Stream, count: number, use: (words: Uint32Array, start: number) => void): void {
  if (!Number.isSafeInteger(seed)) {
    throw new LowrankError("random/seed", "The seed is not a whole number.", {
      subject: "seed",
      expected: "an integer between -2^53 and 2^53",
      got: String(seed),
      next: "Give a seed such as 42.",
    });
  }
  const key = [seed, Math.floor(seed / 2 ** 32), stream[0], stream[1] ?? 0].map((word) => word >>> 0);
  const words = new Uint32Array(Math.min(CHUNK, Math.ceil(count / 4) * 4));
  for (let start = 0; start < count; start += CHUNK) {
    use(threefry4x32(key, [start / 4, stream[2] ?? 0, stream[3] ?? 0, 0], words), start);
  }
}

/**
 * Uniform numbers in [0, 1), multiples of 2^-24, as a pure function of seed, stream and index: a longer array of the
 * same stream starts with the same numbers. `out` is an array to fill, or how many numbers to make.
 */
export const uniform = (seed: number, stream: Stream, out: number | Float32Array): Float32Array =>
  filled(seed, stream, out, (words, part) => {
    for (let i = 0; i < part.length; i++) part[i] = (words[i]! >>> 8) * 2 ** -24;
  });

/** Standard normal numbers (Box and Muller's transform), with `uniform`'s contract. */
export const normal = (seed: number, stream: Stream, out: number | Float32Array): Float32Array =>
  filled(seed, stream, out, (words, part) => {
    for (let i = 0; i < part.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log((words[i]! + 1) * 2 ** -32));
      const angle = 2 * Math.PI * words[i + 1]! * 2 ** -32;
      part[i] = radius * Math.cos(angle);
      part[i + 1] = radius * Math.sin(angle); // nothing happens behind the end
    }
  });

type Draw = (words: Uint32Array, part: Float32Array) => void;

function filled(seed: number, stream: Stream, out: number | Float32Array, draw: Draw): Float32Array {
  const target = typeof out === "number" ? new Float32Array(out) : out;
  eachChunk(seed, stream, target.length, (words, start) => draw(words, target.subarray(start, start + words.length)));
  return target;
}

/** A permutation of 0 … n-1 (Fisher and Yates' shuffle). Each draw has 53 bits: no order is favoured measurably. */
export function permutation(seed: number, stream: Stream, n: number): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i);
  eachChunk(seed, stream, 2 * n, (words, start) => {
    for (let i = 0; i < words.length; i += 2) {
      const last = n - 1 - (start + i) / 2;
      if (last <= 0) return;
      const draw = ((words[i]! >>> 5) * 2 ** 26 + (words[i + 1]! >>> 6)) * 2 ** -53;
      const other = Math.floor(draw * (last + 1));
      [order[last], order[other]] = [order[other]!, order[last]!];
    }
  });
  return order;
}
