// Products of vectors, a block at a time, and how well vectors find each other: recall@k over cosines, as CLIP's and ALIGN's papers report it
// for Flickr30K and COCO.
import { check } from "../../graph/graph.ts";
import { input } from "../../graph/ops/leaves.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { type Engine, openGraph } from "../../runtime/open-graph.ts";
import { noWeights } from "../../runtime/session.ts";
import { float32, type Tensor } from "../../tensor.ts";
import { percent } from "../../units.ts";
import { comparedRows, notFinite } from "./measures.ts";

/** Products that are computed at once: 16 MB of them. */
const BLOCK = 1 << 22;

/** Vectors of the same width, one after another. */
export interface Vectors {
  data: Float32Array;
  width: number;
}

export const rowsOf = ({ data, width }: Vectors): number => (width === 0 ? 0 : data.length / width);

/** Vectors of one width as one block of memory. */
export function vectors(rows: readonly Float32Array[], width: number): Vectors {
  const data = new Float32Array(rows.length * width);
  for (const [i, row] of rows.entries()) data.set(row, i * width);
  return { data, width };
}

/** One of vectors [rows, width], as a copy. */
export const vectorOf = ({ data, shape }: Tensor, row: number): Float32Array =>
  (data as Float32Array).slice(row * shape[1]!, (row + 1) * shape[1]!);

/** A session that multiplies; close it. */
export interface Products {
  /** a · bᵀ, rows of `a` by rows of `b`, as blocks of whole rows in the order of `a`; each comes with its first row. */
  blocks(a: Vectors, b: Vectors): AsyncGenerator<{ first: number; products: Float32Array }, void, void>;
  close(): Promise<void>;
}

/** Opens the engine for products. */
export async function openProducts(engine: Engine): Promise<Products> {
  const a = input("a", "float32", ["rows", "width"]);
  const b = input("b", "float32", ["columns", "width"]);
  const graph = check({ outputs: { products: gemm(a, b, { transB: true }) } }); // [rows, columns]
  const session = await openGraph(graph, noWeights, engine);
  return {
    async *blocks(a, b) {
      const columns = rowsOf(b);
      const rows = rowsOf(a);
      if (rows === 0 || columns === 0) return;
      await session.bind({ b: float32([columns, b.width], b.data) });
      const step = Math.max(1, Math.floor(BLOCK / columns));
      for (let first = 0; first < rows; first += step) {
        const block = a.data.subarray(first * a.width, (first + step) * a.width);
        // A copy: with a part of a buffer all of it would go to the worker.
        const { products } = await session.run({ a: float32([block.length / a.width, a.width], block.slice()) });
        yield { first, products: products!.data as Float32Array };
      }
    },
    close: () => session.close(),
  };
}

/** What `work` makes of products, which are closed behind it. */
export async function withProducts<T>(engine: Engine, work: (products: Products) => Promise<T>): Promise<T> {
  const products = await openProducts(engine);
  try {
    return await work(products);
  } finally {
    await products.close();
  }
}

/** Among how many of the nearest the right one has to be. */
const RECALL_AT = [1, 5, 10] as const;

/** Shares of the queries that find a right one among the `k` nearest, by k. */
export type Recall = Record<(typeof RECALL_AT)[number], number>;

export interface RetrievalMeasures {
  images: number;
  texts: number;
  /** Images whose nearest texts hold one of their own; an image can have several. */
  imageToText: Recall;
  /** Texts whose nearest images hold their own. */
  textToImage: Recall;
}

/**
 * recall@k between `images` and `texts`, unit vectors. `imageOf` has for each text the row of its image; every image has a text.
 * Of equally near ones the earlier row counts as nearer. Throws `predict/not-finite` for vectors that are no numbers.
 */
export async function retrievalMeasures(
  products: Products,
  images: Vectors,
  texts: Vectors,
  imageOf: ArrayLike<number>,
): Promise<RetrievalMeasures> {
  checkFinite(images, "images");
  checkFinite(texts, "texts");
  const textsOf: number[][] = Array.from({ length: rowsOf(images) }, () => []);
  for (let text = 0; text < imageOf.length; text++) textsOf[imageOf[text]!]!.push(text);
  return {
    images: rowsOf(images),
    texts: rowsOf(texts),
    imageToText: await recall(products, images, texts, (image) => textsOf[image]!),
    textToImage: await recall(products, texts, images, (text) => [imageOf[text]!]),
  };
}

/** Shares of `queries` whose nearest of `found` hold one of their right ones, rows of `found`; as `retrievalMeasures` otherwise. */
export async function recall(
  products: Products,
  queries: Vectors,
  found: Vectors,
  rightOnes: (query: number) => number[],
): Promise<Recall> {
  const [count, columns] = [rowsOf(queries), rowsOf(found)];
  const hits = RECALL_AT.map(() => 0);
  for await (const { first, products: block } of products.blocks(queries, found)) {
    for (let row = 0; row * columns < block.length; row++) {
      const scores = block.subarray(row * columns, (row + 1) * columns);
      const right = rightOnes(first + row).reduce((best, one) => (best < 0 || isNearer(scores, one, best) ? one : best), -1);
      if (right < 0) continue;
      const place = scores.reduce((nearer, _, other) => nearer + Number(isNearer(scores, other, right)), 0);
      for (const [i, k] of RECALL_AT.entries()) if (place < k) hits[i]!++;
    }
  }
  return Object.fromEntries(RECALL_AT.map((k, i) => [k, count === 0 ? 0 : hits[i]! / count])) as Recall;
}

const isNearer = (scores: Float32Array, a: number, b: number): boolean =>
  scores[a]! > scores[b]! || (scores[a] === scores[b] && a < b);

/** A table of recall@k, of the base and of the adapter. */
export const recallTable = <S>(sides: { base: S | null; adapter: S | null }, of: (score: S) => Recall): string[][] => [
  ["", ...RECALL_AT.map((k) => `recall@${k}`)],
  ...comparedRows(sides, (score) => RECALL_AT.map((k) => percent(of(score)[k]))),
];

/** Fails with `predict/not-finite` for vectors that are no numbers. */
export function checkFinite({ data, width }: Vectors, of: string): void {
  const at = data.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  throw notFinite("vectors are", String(data[at]), `${of}, row ${Math.floor(at / width) + 1}`);
}
