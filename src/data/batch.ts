// Examples to rectangles of tokens: padding, packing several sequences into a row, and the order of batches in an epoch.
import { LowrankError } from "../errors.ts";
import { permutation, purpose } from "../random.ts";
import { int32, type Tensor } from "../tensor.ts";
import { type Batch, type Example, IGNORE } from "./types.ts";

/** Batches among which lengths are sorted. The sort costs randomness, the window bounds how much (Transformers: 50). */
const WINDOW_BATCHES = 50;

/** Rows of tokens padded on the right, int32 [rows, width] each. */
export interface PaddedRows {
  rows: number;
  width: number;
  inputIds: Int32Array;
  /** Position of each token in its own sequence (restarts at 0 in a packed row). */
  positionIds: Int32Array;
  /** 1 where a token may be attended to, 0 for padding. */
  attentionMask: Int32Array;
  /** Which sequence of its row a token belongs to: a token attends only within its segment. All 0 unless packed. */
  segmentIds: Int32Array;
}

/**
 * Rows of tokens, each one sequence or several packed one after another (`packRows`). In a packed row, positions restart and
 * segments number the sequences. Padding is masked, goes on counting positions, and belongs to the row's last segment.
 */
export function padRows(packed: readonly (readonly { ids: Int32Array }[])[], padId: number): PaddedRows {
  const lengths = packed.map((row) => row.reduce((n, { ids }) => n + ids.length, 0));
  const width = Math.max(0, ...lengths);
  const size = packed.length * width;
  const inputIds = new Int32Array(size).fill(padId);
  const [positionIds, attentionMask, segmentIds] = [new Int32Array(size), new Int32Array(size), new Int32Array(size)];
  for (const [r, row] of packed.entries()) {
    let start = r * width;
    let position = 0;
    for (const [segment, { ids }] of row.entries()) {
      inputIds.set(ids, start);
      attentionMask.fill(1, start, start + ids.length);
      segmentIds.fill(segment, start, start + ids.length);
      for (position = 0; position < ids.length; position++) positionIds[start + position] = position;
      start += ids.length;
    }
    segmentIds.fill(Math.max(0, row.length - 1), start, (r + 1) * width);
    while (start < (r + 1) * width) positionIds[start++] = position++;
  }
  return { rows: packed.length, width, inputIds, positionIds, attentionMask, segmentIds };
}

/** The four rectangles under the names of a decoder's inputs. */
export function rowFeeds({ rows, width, ...rectangles }: PaddedRows): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(rectangles).map(([name, values]) => [name, int32([rows, width], values)]));
}

/**
 * The positions of padded rows whose *next* token is a target, flat (row * width + t) and ascending, and the target of each. The
 * first token of a sequence is never one.
 */
export function nextTokenTargets(
  packed: readonly (readonly Pick<Example, "ids" | "labels">[])[],
  width: number,
): { rows: Int32Array; labels: Int32Array } {
  const rows: number[] = [];
  const targets: number[] = [];
  for (const [r, row] of packed.entries()) {
    let start = r * width;
    for (const { ids, labels } of row) {
      for (let position = 1; position < ids.length; position++) {
        if (labels[position] === IGNORE) continue;
        rows.push(start + position - 1);
        targets.push(labels[position]!);
      }
      start += ids.length;
    }
  }
  return { rows: Int32Array.from(rows), labels: Int32Array.from(targets) };
}

/** A batch of a language model: rows of examples, or of lists of packed ones, with `lossRows` and `lossLabels` [targets]. */
export function makeBatch(
  rows: readonly (Example | readonly Example[])[],
  { padId }: { padId: number },
): Batch & { rows: PaddedRows } {
  const packed = rows.map((row) => ("ids" in row ? [row] : row));
  const padded = padRows(packed, padId);
  const targets = nextTokenTargets(packed, padded.width);
  const count = targets.rows.length;
  const feeds = { ...rowFeeds(padded), lossRows: int32([count], targets.rows), lossLabels: int32([count], targets.labels) };
  return { rows: padded, feeds, targets: count, tokens: padded.attentionMask.reduce((sum, attended) => sum + attended, 0) };
}

/** The indices of rows of these lengths, the longest first; equal ones keep their order. */
export const longestFirst = (lengths: ArrayLike<number>): Int32Array =>
  Int32Array.from(lengths, (_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);

/**
 * Packs examples of these lengths into rows of at most `maxLength` tokens by first-fit decreasing (at most 11/9 of the fewest
 * rows + 1). Gives the indices in each row. Deterministic: equal lengths keep their order.
 */
export function packRows(lengths: ArrayLike<number>, maxLength: number): number[][] {
  const order = longestFirst(lengths);
  const longest = lengths[order[0] ?? 0] ?? 0;
  if (longest > maxLength) {
    throw new LowrankError("data/too-long", "a sequence is longer than its row", {
      subject: "maxLength",
      expected: `at most ${maxLength} tokens`,
      got: `${longest}`,
      next: "Truncate the examples to this length, or raise it.",
    });
  }
  // A binary tree over the rows: each node holds the most room below it, so that the first row that fits is found in log n.
  const leaves = 2 ** Math.ceil(Math.log2(Math.max(1, lengths.length)));
  const room = new Int32Array(2 * leaves).fill(maxLength);
  const rows: number[][] = [];
  for (const i of order) {
    const length = lengths[i]!;
    let node = 1;
    while (node < leaves) node = room[2 * node]! >= length ? 2 * node : 2 * node + 1;
    rows[node - leaves] ??= [];
    rows[node - leaves]!.push(i);
    room[node]! -= length;
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

/** The batches of an epoch. */
export interface BatchPlan {
  count: number;
  /** Which rows a batch has. */
  batch(index: number): number[];
}

/** Batches that padding is counted in. */
const COUNTED_BATCHES = 10_000;

/**
 * The share of padding in the batches of an epoch, of very many in the first of them: 0 where no row is shorter than the part of its
 * batch that is computed with it.
 */
export function paddingShare(
  lengths: ArrayLike<number>,
  { count, batch }: BatchPlan,
  partsOf = (rows: readonly number[]): (readonly number[])[] => [rows],
): number {
  let [tokens, places] = [0, 0];
  for (let i = 0; i < Math.min(count, COUNTED_BATCHES); i++) {
    for (const part of partsOf(batch(i))) {
      const own = part.map((row) => lengths[row]!);
      tokens += own.reduce((sum, length) => sum + length, 0);
      places += own.length * own.reduce((most, length) => Math.max(most, length), 0);
    }
  }
  return places === 0 ? 0 : 1 - tokens / places;
}

/**
 * The batches of an epoch, as indices into `lengths` (tokens of each row): every row once, `batchSize` a batch, and what
 * is left over in one smaller batch. A pure function of its arguments; each epoch has an order of its own. Takes 8 bytes a
 * row: there can be ten million of them.
 */
export function planBatches(lengths: ArrayLike<number>, options: PlanOptions): BatchPlan {
  const { batchSize, seed, epoch, shuffle = true, bucket = true } = options;
  if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
    throw new LowrankError("data/option", "the batch size is not a positive integer", {
      subject: "batchSize",
      expected: "an integer of at least 1",
      got: String(batchSize),
      next: "give the number of rows of a batch",
    });
  }
  const rows = lengths.length;
  const count = Math.ceil(rows / batchSize);
  const order = shuffle ? permutation(seed, [purpose.shuffle, epoch, 0], rows) : Int32Array.from({ length: rows }, (_, i) => i);
  const inOrder = (index: number) => [...order.subarray(index * batchSize, (index + 1) * batchSize)];
  if (!shuffle || !bucket) return { count, batch: inOrder };
  const window = WINDOW_BATCHES * batchSize;
  for (let start = 0; start < rows; start += window) {
    const sorted = [...order.subarray(start, start + window)].sort((a, b) => lengths[b]! - lengths[a]!);
    order.set(sorted, start);
  }
  const batches = permutation(seed, [purpose.shuffle, epoch, 1], count);
  return { count, batch: (index) => inOrder(batches[index]!) };
}
