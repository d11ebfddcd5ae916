// The one way from a graph to a session, whole or cut into stages; its frozen weights stay where their source has them.
import type { Shape } from "../graph/dims.ts";
import { type Graph, nodesOf } from "../graph/graph.ts";
import { wideShape } from "../graph/ops/stored.ts";
import { type Program, whole } from "../graph/stages.ts";
import { checkStored } from "../onnx/emitter.ts";
import { checkCounts } from "../options.ts";
import { MAX_THREADS, type OpenSession, type Session, type SessionOptions, type WeightSource } from "./session.ts";

/** What opens sessions, and how. */
export interface Engine extends Omit<SessionOptions, "weights"> {
  openSession: OpenSession;
}

/**
 * Opens `graph`. Nothing is read before the engine does; close the session to free the weights. Throws `runtime/option` for a number of
 * threads that the engine cannot have.
 */
export const openGraph = (graph: Graph, weights: WeightSource, engine: Engine): Promise<Session> =>
  openProgram(whole(graph), weights, engine);

/** Shapes of the weights that a program reads, by name. */
function weightsOf({ stages }: Program): Map<string, Shape> {
  const given = stages.flatMap(({ inputs }) =>
    inputs.flatMap(({ source, leaf }) => {
      if (source.kind !== "weight") return [];
      if (!source.part) return [[source.name, leaf.shape] as const];
      return source.part.part === 0 ? [[source.part.of, wideShape(source.part.form, leaf.shape)] as const] : [];
    }),
  );
  const own = stages.flatMap(({ graph }) => nodesOf(graph)).filter(({ op }) => op === "weight");
  return new Map([...given, ...own.map(({ attributes, outputs: [leaf] }) => [String(attributes["name"]), leaf!.shape] as const)]);
}

/** `openGraph` for a graph that is cut already. */
export async function openProgram(
  program: Program,
  weights: WeightSource,
  { openSession, ...options }: Engine,
): Promise<Session> {
  checkCounts("runtime/option", { threads: options.threads }, { most: MAX_THREADS });
  for (const [name, shape] of weightsOf(program)) checkStored(name, shape, weights.locate(name));
  return openSession(program, { ...options, weights });
}
