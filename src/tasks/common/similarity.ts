// The products of two sets of vectors, computed by the engine a block of rows at a time, so that memory is bounded.
import { check } from "../../graph/graph.ts";
import { input } from "../../graph/ops/leaves.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { type Engine, noWeights, openGraph } from "../../runtime/open-graph.ts";
import { float32, type Tensor } from "../../tensor.ts";

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
