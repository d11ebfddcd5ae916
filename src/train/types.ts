// The border between the training loop and the network: a flat parameter vector θ and a function of it.

import type { ThetaEntry } from "../adapters/layout.ts";
import type { Batch } from "../data/types.ts";
import type { Tensor } from "../tensor.ts";

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
    batch: Batch,
    theta: Float32Array,
    divisor: number,
    key: DropoutKey,
  ): Promise<{ loss: number; gradient: Float32Array }>;
  /** All outputs of the loss graph for `batch`, without dropout: `loss`, the sum over its targets, and what is measured beside it. */
  evaluate(batch: Batch, theta: Float32Array): Promise<Record<string, Tensor>>;
}
