// What is counted in batches.
import type { AnyBatch } from "../data/types.ts";

export const targetsOf = (batch: AnyBatch): number => ("feeds" in batch ? batch.targets : batch.lossLabels.length);
/** Tokens that are not padding. */
export const tokensOf = (batch: AnyBatch): number =>
  "feeds" in batch ? batch.tokens : batch.attentionMask.reduce((sum, attended) => sum + attended, 0);
export const total = <B extends AnyBatch>(batches: readonly B[], of: (batch: B) => number): number =>
  batches.reduce((sum, batch) => sum + of(batch), 0);
