// Examples to rectangles of tokens: padding, packing several sequences into a row, and the order of batches in an epoch.
import { LowrankError } from "../errors.ts";
import { permutation, purpose } from "../random.ts";
import { type Batch, type Example, IGNORE } from "./types.ts";

/** Batches among which lengths are sorted. The sort costs randomness, the window bounds how much (Transformers: 50). */
const WINDOW_BATCHES = 50;

export interface BatchOptions {
  padId: number;
  /** Width of the batch. Default: that of its longest row. */
  padTo?: number;
}

/**
 * A batch of rows, padded on the right: each an example, or a list of examples packed one after another (`packExamples`).
 * In a packed row, positions restart and segments number the examples; the first token of each is no target. Padding is
 * masked, goes on counting positions, and belongs to the row's last segment.
 */
export function makeBatch(rows: readonly (Example | readonly Example[])[], { padId, padTo }: BatchOptions): Batch {
  const packed = rows.map((row) => ("ids" in row ? [row] : row));
  const lengths = packed.map((row) => row.reduce((n, { ids }) => n + ids.length, 0));
  const width = widthOf(lengths, padTo);
  const size = rows.length * width;
  const inputIds = new Int32Array(size).fill(padId);
  const positionIds = new Int32Array(size);
  const attentionMask = new Int32Array(size);
  const segmentIds = new Int32Array(size);
  const lossRows: number[] = [];
  const lossLabels: number[] = [];
  for (const [r, row] of packed.entries()) {
    let start = r * width;
    let position = 0;
    for (const [segment, { ids, labels }] of row.entries()) {
      inputIds.set(ids, start);
      attentionMask.fill(1, start, start + ids.length);
      segmentIds.fill(segment, start, start + ids.length);
      for (position = 0; position < ids.length; position++) {
        positionIds[start + position] = position;
        const label = labels[position]!;
        if (position === 0 || label === IGNORE) continue;
        lossRows.push(start + position - 1);
        lossLabels.push(label);
      }
      start += ids.length;
    }
    segmentIds.fill(Math.max(0, row.length - 1), start, (r + 1) * width);
    while (start < (r + 1) * width) positionIds[start++] = position++;
  }
  return {
    rows: rows.length,
    width,
    inputIds,
    positionIds,
    attentionMask,
    segmentIds,
    lossRows: Int32Array.from(lossRows),
    lossLabels: Int32Array.from(lossLabels),
  };
}

/**
 * Packs examples into rows of at most `maxLength` tokens by first-fit decreasing (at most 11/9 of the fewest rows + 1).
 * Deterministic: equal lengths keep their order.
 */
export function packExamples(examples: readonly Example[], maxLength: number): Example[][] {
  const order = examples.map((_, i) => i).sort((a, b) => examples[b]!.ids.length - examples[a]!.ids.length || a - b);
  const longest = order.length > 0 ? examples[order[0]!]!.ids.length : 0;
  if (longest > maxLength) throw tooLong(longest, maxLength, "maxLength");
  // A binary tree over the rows: each node holds the most room below it, so that the first row that fits is found in log n.
  const leaves = 2 ** Math.ceil(Math.log2(Math.max(1, examples.length)));
  const room = new Float64Array(2 * leaves).fill(maxLength);
  const rows: Example[][] = [];
  for (const i of order) {
    const example = examples[i]!;
    let node = 1;
    while (node < leaves) node = room[2 * node]! >= example.ids.length ? 2 * node : 2 * node + 1;
    rows[node - leaves] ??= [];
    rows[node - leaves]!.push(example);
    room[node]! -= example.ids.length;
    for (node >>= 1; node > 0; node >>= 1) room[node] = Math.max(room[2 * node]!, room[2 * node + 1]!);
  }
  return rows;
}

export interface PlanOptions {
  batchSize: number;
  seed: number;
  epoch: number;
  /** Default true. False: file order, without buckets. */
  shuffle?: boolean;
  /** Puts rows of similar length into one batch, so that less is padding. Default true. */
  bucket?: boolean;
}

/**
 * The batches of an epoch, as indices into `lengths` (tokens of each row): every row once, `batchSize` a batch, and what
 * is left over in one smaller batch. A pure function of its arguments; each epoch has an order of its own.
 */
export function planBatches(lengths: ArrayLike<number>, options: PlanOptions): number[][] {
  const { batchSize, seed, epoch, shuffle = true, bucket = true } = options;
  if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
    throw new LowrankError("data/option", "the batch size is not a positive integer", {
      subject: "batchSize",
      expected: "an integer of at least 1",
      got: String(batchSize),
      next: "give the number of rows of a batch",
    });
  }
  const chunks = (order: readonly number[], size: number): number[][] =>
    Array.from({ length: Math.ceil(order.length / size) }, (_, i) => order.slice(i * size, (i + 1) * size));
  if (!shuffle)
    return chunks(
      Array.from({ length: lengths.length }, (_, i) => i),
      batchSize,
    );
  const order = [...permutation(seed, [purpose.shuffle, epoch, 0], lengths.length)];
  if (!bucket) return chunks(order, batchSize);
  const batches = chunks(order, WINDOW_BATCHES * batchSize).flatMap((window) =>
    chunks(
      window.sort((a, b) => lengths[b]! - lengths[a]!),
      batchSize,
    ),
  );
  return [...permutation(seed, [purpose.shuffle, epoch, 1], batches.length)].map((i) => batches[i]!);
}

function widthOf(lengths: readonly number[], padTo: number | undefined): number {
  const longest = lengths.reduce((a, b) => Math.max(a, b), 0);
  if (padTo !== undefined && longest > padTo) throw tooLong(longest, padTo, "padTo");
  return padTo ?? longest;
}

const tooLong = (length: number, limit: number, subject: string): LowrankError =>
  new LowrankError("data/too-long", "a sequence is longer than its row", {
    subject,
    expected: `at most ${limit} tokens`,
    got: `${length}`,
    next: "truncate the examples to this length, or raise it",
  });
