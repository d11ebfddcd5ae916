// The rows of batches: an example each, or several packed. Sizes are known without reading a token.
import { makeBatch, packRows } from "../data/batch.ts";
import { type Examples, inOrder } from "../data/store.ts";
import type { AnyBatch, Batch } from "../data/types.ts";
import { fingerprinter } from "../formats/fingerprint.ts";
import type { Facts } from "./checkpoint.ts";
import type { BatchSize } from "./memory.ts";

export interface Rows<B extends AnyBatch = AnyBatch> {
  examples: Examples;
  /** Tokens of each row. */
  lengths: Int32Array;
  /** What the batch of these rows will be. */
  size(indices: readonly number[]): BatchSize;
  batch(indices: readonly number[]): Promise<B>;
  /** What beside the examples determines the batches. */
  facts: Facts;
  /** A short name for the examples: differs when they differ. `imageOf` names an image. */
  name(imageOf?: (number: number) => string): Promise<string>;
}

/** The examples of a language model as rows, in order; packed into rows of at most `packLength` tokens if it is given. */
export function rowsOf(examples: Examples, padId: number, packLength?: number): Rows<Batch> {
  const tokens = Int32Array.from({ length: examples.length }, (_, i) => examples.tokensOf(i));
  const packed = packLength === undefined ? undefined : packRows(tokens, packLength);
  const membersOf = (row: number): readonly number[] => packed?.[row] ?? [row];
  const lengths = packed ? Int32Array.from(packed, (row) => row.reduce((sum, i) => sum + tokens[i]!, 0)) : tokens;
  return {
    examples,
    lengths,
    facts: { padId, packLength: packLength ?? null },
    async name(imageOf) {
      const name = fingerprinter();
      for await (const { ids, labels, images = [] } of inOrder(examples)) {
        name.add(ids);
        name.add(labels);
        if (imageOf) for (const image of images) name.add(new TextEncoder().encode(imageOf(image)));
      }
      return name.end();
    },
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
