// How long a step takes, from the floating-point operations of its graph and a product that is timed on this machine.
import { stopwatch } from "../clock.ts";
import type { ElementType, Graph } from "../graph/graph.ts";
import { nodesOf } from "../graph/graph.ts";
import { input } from "../graph/ops/leaves.ts";
import { gemm } from "../graph/ops/linear.ts";
import { integerProduct } from "../graph/ops/rotated.ts";
import { openGraph } from "../runtime/open-graph.ts";
import type { OpenSession, Session } from "../runtime/session.ts";
import { noWeights } from "../runtime/session.ts";
import { float32, sizeOf, type Tensor } from "../tensor.ts";

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

/** Share of the measured speed that the products of a step reach, with everything between them: docs/performance.md. */
const EFFICIENCY = 0.7;
/** What each node costs whatever its size, and each trained parameter in the optimizer. */
const NODE_SECONDS = 5e-6;
const PARAMETER_SECONDS = 5e-9;

/** Estimated seconds of one step of `microBatches` runs of `graph`, each with this many floating-point operations. */
export const stepSeconds = (
  graph: Graph,
  { flops, microBatches, trainable }: { flops: number; microBatches: number; trainable: number },
  flopsPerSecond: number,
): number =>
  microBatches * (flops / (EFFICIENCY * flopsPerSecond) + NODE_SECONDS * nodesOf(graph).length) + PARAMETER_SECONDS * trainable;
