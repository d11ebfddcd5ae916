// How fast an engine multiplies, measured on this machine.
import { stopwatch } from "../clock.ts";
import type { ElementType, Graph } from "../graph/graph.ts";
import { input } from "../graph/ops/leaves.ts";
import { gemm } from "../graph/ops/linear.ts";
import { integerProduct } from "../graph/ops/rotated.ts";
import { float32, sizeOf, type Tensor } from "../tensor.ts";
import { openGraph } from "./open-graph.ts";
import { noWeights, type OpenSession, type Session } from "./session.ts";

/** The product that is timed: [ROWS, WIDTH] · [WIDTH, WIDTH], CHAIN times one after another. */
const ROWS = 256;
const WIDTH = 1024;
const CHAIN = 2;
const RUNS = 5;

/** Floating-point operations a second of matrix products in the engine: the fastest of a few runs, in a fraction of a second. */
export async function measureFlops(openSession: OpenSession, threads?: number): Promise<number> {
  const w = input("w", "float32", [WIDTH, WIDTH]);
  let y = input("x", "float32", [ROWS, WIDTH]);
  for (let i = 0; i < CHAIN; i++) y = gemm(y, w);
  const values = (rows: number) => float32([rows, WIDTH], new Float32Array(rows * WIDTH).fill(1 / WIDTH));
  const seconds = await fastest({ y }, { x: values(ROWS), w: values(WIDTH) }, { openSession, threads });
  return (2 * ROWS * WIDTH * WIDTH * CHAIN) / seconds["y"]!;
}

/**
 * How many times as fast as in float32 a product of uint8 rows with int8 weights is: about 4 on CPUs with instructions for it (VNNI),
 * under 1 on others.
 */
export async function integerSpeedup(openSession: OpenSession, threads?: number): Promise<number> {
  const [x, w] = [
    [ROWS, WIDTH],
    [WIDTH, WIDTH],
  ] as const;
  const tensors: Record<string, Tensor> = {
    x: float32(x, new Float32Array(sizeOf(x)).fill(1)),
    w: float32(w, new Float32Array(sizeOf(w)).fill(1)),
    q: { dtype: "uint8", shape: x, data: new Uint8Array(sizeOf(x)).fill(130) },
    v: { dtype: "int8", shape: w, data: new Int8Array(sizeOf(w)).fill(2) },
  };
  const leaf = (name: string) => input(name, tensors[name]!.dtype as ElementType, tensors[name]!.shape);
  const products = { float: gemm(leaf("x"), leaf("w")), integer: integerProduct(leaf("q"), leaf("v")) };
  const seconds = await fastest(products, tensors, { openSession, threads });
  return seconds["float"]! / seconds["integer"]!;
}

/** With the instructions for it a product gains two to four times even on a busy machine; without them it loses. */
const WORTHWHILE = 1.3;

/** Whether layers are faster as products of integers on this machine. */
export const gainsByIntegers = async (openSession: OpenSession, threads?: number): Promise<boolean> =>
  (await integerSpeedup(openSession, threads)) > WORTHWHILE;

/** Seconds that each output takes by itself: the fastest of a few runs, the outputs in turn. */
async function fastest(
  outputs: Graph["outputs"],
  feeds: Record<string, Tensor>,
  engine: { openSession: OpenSession; threads?: number },
): Promise<Record<string, number>> {
  const best: Record<string, number> = Object.fromEntries(Object.keys(outputs).map((name) => [name, Number.POSITIVE_INFINITY]));
  const sessions: [string, Session][] = [];
  try {
    for (const [name, y] of Object.entries(outputs)) {
      const session = await openGraph({ outputs: { [name]: y } }, noWeights, engine);
      sessions.push([name, session]);
      await session.bind(feeds);
    }
    for (let run = 0; run <= RUNS; run++) {
      for (const [name, session] of sessions) {
        const elapsed = stopwatch();
        await session.run({});
        const seconds = elapsed();
        if (run > 0 && seconds > 0) best[name] = Math.min(best[name]!, seconds);
      }
    }
    return best;
  } finally {
    for (const [, session] of sessions) await session.close();
  }
}
