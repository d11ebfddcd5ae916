// What is counted in batches.
import type { Batch } from "../data/types.ts";

export const targetsOf = (batch: Batch): number => batch.lossLabels.length;
/** Tokens that are not padding. */
export const tokensOf = (batch: Batch): number => batch.attentionMask.reduce((sum, attended) => sum + attended, 0);
export const total = (batches: readonly Batch[], of: (batch: Batch) => number): number =>
  batches.reduce((sum, batch) => sum + of(batch), 0);
