// Examples to batches: rows of one example each, or several packed. Sizes are known without reading a token.
import { fingerprinter } from "../formats/fingerprint.ts";
import { longestFirst, makeBatch, packRows } from "./batch.ts";
import { type Examples, inOrder } from "./store.ts";
import type { Batch, BatchSize, RunIdentity } from "./types.ts";

/** What makes batches of rows, by their numbers. */
export interface Collator<B extends Batch = Batch> {
  examples: Examples;
  /** Tokens of each row. */
  lengths: Int32Array;
  /** What the batch of these rows will be. */
  size(rows: readonly number[]): BatchSize;
  batch(rows: readonly number[]): Promise<B>;
  /** What beside the examples determines the batches. */
  identity: RunIdentity;
  /** A short name for the examples: differs when they differ. */
  name(): Promise<string>;
}

/** A name for what examples hold. `imageOf` names an image, `classOf` gives the place of a class. */
export async function examplesName(
  examples: Examples,
  { imageOf, classOf = (number) => number }: { imageOf?: (number: number) => string; classOf?: (number: number) => number } = {},
): Promise<string> {
  const name = fingerprinter();
  for await (const { ids, labels, starts = [], classes = [], value, images = [] } of inOrder(examples)) {
    name.add(ids);
    name.add(labels);
    if (starts.length > 0) name.add(starts);
    if (classes.length > 0) name.add(classes.map((number) => (number < 0 ? number : classOf(number))));
    if (value !== undefined) name.add(new Uint8Array(Float32Array.of(value).buffer));
    if (imageOf) for (const image of images) name.add(new TextEncoder().encode(imageOf(image)));
  }
  return name.end();
}

/** The examples of a language model as rows, in order; packed into rows of at most `packLength` tokens if it is given. */
export function collate(examples: Examples, padId: number, packLength?: number): Collator<ReturnType<typeof makeBatch>> {
  const tokens = Int32Array.from({ length: examples.length }, (_, i) => examples.tokensOf(i));
  const packed = packLength === undefined ? undefined : packRows(tokens, packLength);
  const membersOf = (row: number): readonly number[] => packed?.[row] ?? [row];
  const lengths = packed ? Int32Array.from(packed, (row) => row.reduce((sum, i) => sum + tokens[i]!, 0)) : tokens;
  return {
    examples,
    lengths,
    identity: { padId, packLength: packLength ?? null },
    name: () => examplesName(examples),
    size: (rows) => ({
      ...sizeOfRows(lengths, rows),
      targets: rows.reduce((sum, row) => sum + membersOf(row).reduce((n, i) => n + examples.targetsOf(i), 0), 0),
    }),
    async batch(rows) {
      const read = (await examples.read(rows.flatMap(membersOf))).values();
      const made = makeBatch(
        rows.map((row) => membersOf(row).map(() => read.next().value!)),
        { padId },
      );
      return { ...made, rowKeys: rows };
    },
  };
}

/** Rows and width of a batch of these; a target a row. */
export const sizeOfRows = (lengths: Int32Array, rows: readonly number[]): BatchSize => ({
  rows: rows.length,
  width: rows.reduce((most, row) => Math.max(most, lengths[row]!), 0),
  targets: rows.length,
});

/** Less room for a part, which is tried first: the parts of a batch are of like size then. */
const TIGHTER = [5 / 8, 6 / 8, 7 / 8];

/**
 * The rows of a batch in parts that are computed one after the other: the longest rows first, and at most `tokens` places in each, or one
 * row. Losses of rows that do not meet, and their gradients, are summed over them: it is the same batch. It stays whole without `tokens`.
 */
export function passesOf(
  { size, lengths }: Pick<Collator, "size" | "lengths">,
  batch: readonly number[],
  tokens = Number.POSITIVE_INFINITY,
): (readonly number[])[] {
  if (batch.length <= 1 || placesOf(size(batch)) <= tokens) return [batch];
  const order = [...batch].sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const sizes = order.map((row) => size([row]));
  const within = (room: number) => {
    const passes: number[][] = [];
    let whole = { rows: 0, width: 0 };
    for (const [i, row] of order.entries()) {
      const one = sizes[i]!;
      const more = { rows: whole.rows + one.rows, width: Math.max(whole.width, one.width) };
      const fits = passes.length > 0 && placesOf(more) <= room;
      whole = fits ? more : one;
      if (fits) passes.at(-1)!.push(row);
      else passes.push([row]);
    }
    return passes;
  };
  const fewest = within(tokens);
  for (const share of TIGHTER) {
    const passes = within(share * tokens);
    if (passes.length === fewest.length) return passes;
  }
  return fewest;
}

const placesOf = ({ rows, width }: Pick<BatchSize, "rows" | "width">): number => rows * width;

/** The batches of an evaluation, made anew each time they are gone through. */
export interface EvaluationBatches<B extends Batch> extends AsyncIterable<B> {
  /** The numbers of each batch's rows, its size, and the batch itself. */
  rows: readonly (readonly number[])[];
  batch(index: number): Promise<B>;
  sizes: readonly BatchSize[];
}

/** Every row once, rows of like length together; packed ones, which are all long, in their order. `passTokens`: `passesOf` each batch. */
export function evaluationBatches<B extends Batch>(
  rows: Collator<B>,
  batchSize: number,
  passTokens?: number,
): EvaluationBatches<B> {
  const isPacked = (rows.identity["packLength"] ?? null) !== null;
  const order = isPacked ? rows.lengths.map((_, i) => i) : longestFirst(rows.lengths);
  const batches = Array.from({ length: Math.ceil(order.length / batchSize) }, (_, i) => [
    ...order.subarray(i * batchSize, (i + 1) * batchSize),
  ]).flatMap((batch) => passesOf(rows, batch, passTokens));
  return {
    rows: batches,
    batch: (index) => rows.batch(batches[index]!),
    sizes: batches.map(rows.size),
    async *[Symbol.asyncIterator]() {
      for (const batch of batches) yield await rows.batch(batch);
    },
  };
}
