// The one way from a graph to a session, whole or cut into stages; its frozen weights stay where their source has them.
import type { Shape } from "../graph/dims.ts";
import { type Graph, nodesOf } from "../graph/graph.ts";
import { type FormName, wideShape } from "../graph/ops/stored.ts";
import { type BaseDtype, programIn } from "../graph/pack.ts";
import type { Program } from "../graph/stages.ts";
import { checkStored } from "../onnx/emitter.ts";
import { checkCounts } from "../options.ts";
import { MAX_THREADS, type OpenSession, type Session, type SessionOptions, type WeightSource } from "./session.ts";

/** What opens sessions, and how. */
export interface Engine extends Omit<SessionOptions, "weights"> {
  openSession: OpenSession;
  /** What the base's weights are kept in. Default: float32. */
  baseDtype?: BaseDtype;
}

/**
 * Opens `graph`. Nothing is read before the engine does; close the session to free the weights. Throws `runtime/option` for a number of
 * threads that the engine cannot have.
 */
export const openGraph = (graph: Graph, weights: WeightSource, { baseDtype = "float32", ...engine }: Engine): Promise<Session> =>
  openProgram(
    programIn(baseDtype, graph, (name) => weights.locate(name).dtype),
    weights,
    engine,
  );

/** Shapes of the weights that a program reads, by name. */
function weightsOf({ stages }: Program): Map<string, Shape> {
  const given = stages.flatMap(({ inputs }) =>
    inputs.flatMap(({ source, leaf }) => {
      if (source.kind !== "weight") return [];
      if (!source.part) return [[source.name, leaf.shape] as const];
      const { of, form, part, rows } = source.part;
      const shape = rows ? [rows.total, ...leaf.shape.slice(1)] : leaf.shape;
      return part === 0 ? [[of, form ? wideShape(form, shape) : shape] as const] : [];
    }),
  );
  const leaves = stages.flatMap(({ graph }) => nodesOf(graph)).filter(({ op }) => op === "weight");
  const own = leaves.flatMap(({ attributes: { name, of, form, part }, outputs: [leaf] }) => {
    if (of === undefined) return [[String(name), leaf!.shape] as const];
    return part === 0 ? [[String(of), wideShape(form as FormName, leaf!.shape)] as const] : [];
  });
  return new Map([...given, ...own]);
}

/** `openGraph` for a graph that is cut already. */
export async function openProgram(
  program: Program,
  weights: WeightSource,
  { openSession, ...options }: Omit<Engine, "baseDtype">,
): Promise<Session> {
  checkCounts("runtime/option", { threads: options.threads }, { most: MAX_THREADS });
  for (const [name, shape] of weightsOf(program)) checkStored(name, shape, weights.locate(name));
  return openSession(program, { ...options, weights });
}
