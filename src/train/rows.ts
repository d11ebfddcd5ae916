// The rows of batches: an example each, or several packed. Sizes are known without reading a token.
import { makeBatch, packRows } from "../data/batch.ts";
import type { Examples } from "../data/store.ts";
import type { Batch } from "../data/types.ts";
import type { BatchSize } from "./memory.ts";

export interface Rows {
  /** Tokens of each row. */
  lengths: Int32Array;
  /** What the batch of these rows will be. */
  size(indices: readonly number[]): BatchSize;
  batch(indices: readonly number[]): Promise<Batch>;
}

/** The examples as rows, in order; packed into rows of at most `packLength` tokens if it is given. */
export function rowsOf(examples: Examples, padId: number, packLength?: number): Rows {
  const tokens = Int32Array.from({ length: examples.length }, (_, i) => examples.tokensOf(i));
  const packed = packLength === undefined ? undefined : packRows(tokens, packLength);
  const membersOf = (row: number): readonly number[] => packed?.[row] ?? [row];
  const lengths = packed ? Int32Array.from(packed, (row) => row.reduce((sum, i) => sum + tokens[i]!, 0)) : tokens;
  return {
    lengths,
    size(indices) {
      const width = indices.reduce((most, row) => Math.max(most, lengths[row]!), 0);
      const targets = indices.reduce((sum, row) => sum + membersOf(row).reduce((n, i) => n + examples.targetsOf(i), 0), 0);
      return { rows: indices.length, width, targets };
    },
    async batch(indices) {
      const read = (await examples.read(indices.flatMap(membersOf))).values();
      return makeBatch(
        indices.map((row) => membersOf(row).map(() => read.next().value!)),
        { padId },
      );
    },
  };
}
