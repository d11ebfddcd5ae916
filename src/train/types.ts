// The border between the training loop and the network: a flat parameter vector θ and a function of it.
import type { ThetaEntry } from "../adapters/layout.ts";
import type { AnyBatch } from "../data/types.ts";

export type { ThetaEntry };

/** Identifies the random numbers of one forward pass, so that dropout resumes to the same bits. */
export interface DropoutKey {
  seed: number;
  step: number;
  micro: number;
}

/** A network seen from the training loop. */
export interface Objective {
  readonly entries: readonly ThetaEntry[];
  /**
   * The sum of the token losses of `batch` divided by `divisor`, and its gradient with respect to θ (same length as θ). The
   * gradient's memory belongs to the caller until the next call, which may write there.
   */
  lossAndGradient(
    batch: AnyBatch,
    theta: Float32Array,
    divisor: number,
    key: DropoutKey,
  ): Promise<{ loss: number; gradient: Float32Array }>;
  /** The sum of the token losses of `batch`, without dropout; of a classifier also how many rows it tells right. */
  evaluate(batch: AnyBatch, theta: Float32Array): Promise<{ loss: number; correct?: number }>;
}
