// How long a step takes, from the floating-point operations of its graph and a product that is timed on this machine.
import { stopwatch } from "../clock.ts";
import type { Graph } from "../graph/graph.ts";
import { nodesOf } from "../graph/graph.ts";
import { input } from "../graph/ops/leaves.ts";
import { gemm } from "../graph/ops/linear.ts";
import { openGraph } from "../runtime/open-graph.ts";
import type { OpenSession } from "../runtime/session.ts";
import { noWeights } from "../runtime/session.ts";
import { float32 } from "../tensor.ts";

/** The product that is timed: [ROWS, WIDTH] · [WIDTH, WIDTH], CHAIN times one after another. */
const ROWS = 256;
const WIDTH = 1024;
const CHAIN = 2;
const RUNS = 3;

/** Floating-point operations a second of matrix products in the engine: the fastest of a few runs, in a fraction of a second. */
export async function measureFlops(openSession: OpenSession, threads?: number): Promise<number> {
  const w = input("w", "float32", [WIDTH, WIDTH]);
  let y = input("x", "float32", [ROWS, WIDTH]);
  for (let i = 0; i < CHAIN; i++) y = gemm(y, w);
  const session = await openGraph({ outputs: { y } }, noWeights, { openSession, threads });
  try {
    const values = (rows: number) => float32([rows, WIDTH], new Float32Array(rows * WIDTH).fill(1 / WIDTH));
    await session.bind({ x: values(ROWS), w: values(WIDTH) });
    let best = Number.POSITIVE_INFINITY;
    for (let run = 0; run <= RUNS; run++) {
      const elapsed = stopwatch();
      await session.run({});
      const seconds = elapsed();
      if (run > 0 && seconds > 0) best = Math.min(best, seconds);
    }
    return (2 * ROWS * WIDTH * WIDTH * CHAIN) / best;
  } finally {
    await session.close();
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
