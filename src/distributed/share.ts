// Which rows of a training step are whose: all processes work out the same, and no row is sent.
import type { Communicator } from "./communicator.ts";

/** Which of the processes that share a step this is. */
export type Ranked = Pick<Communicator, "rank" | "size">;

export interface Sharing extends Ranked {
  /** Most rows of a micro-batch. */
  batchSize: number;
  /** The rows of a micro-batch meet in its loss: each process takes a part of every micro-batch, which may have none. */
  together?: boolean;
}

/**
 * The rows of this process in a step of these micro-batches, as micro-batches of its own. Rows go, the longest first, to the process
 * that has the fewest tokens so far, and rows of like length stay together; a process by itself has the micro-batches as they are.
 */
export function shareOf(
  batches: readonly (readonly number[])[],
  lengths: ArrayLike<number>,
  { rank, size, batchSize, together = false }: Sharing,
): (readonly number[])[] {
  if (size === 1) return [...batches];
  if (together) return batches.map((rows) => rows.filter((_, i) => i % size === rank));
  const rows = batches.flat();
  const order = rows.map((_, i) => i).sort((a, b) => lengths[rows[b]!]! - lengths[rows[a]!]! || a - b);
  const given = new Float64Array(size);
  const own: number[] = [];
  for (const i of order) {
    const least = given.indexOf(Math.min(...given));
    given[least]! += Math.max(1, lengths[rows[i]!]!);
    if (least === rank) own.push(rows[i]!);
  }
  return Array.from({ length: Math.ceil(own.length / batchSize) }, (_, i) => own.slice(i * batchSize, (i + 1) * batchSize));
}
