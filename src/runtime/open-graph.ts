// The one way from a graph to a session: lowered, its frozen weights left where their source has them.
import type { CheckpointTensor } from "../formats/stored.ts";
import type { Graph } from "../graph/graph.ts";
import { lower } from "../onnx/lower.ts";
import { checkCounts } from "../options.ts";
import { MAX_THREADS, type OpenSession, type Session, type SessionOptions, type WeightSource } from "./session.ts";

/** What opens sessions, and how. */
export interface Engine extends Omit<SessionOptions, "weights" | "converted"> {
  openSession: OpenSession;
}

/** The source of a graph that reads no weights. */
export const noWeights: WeightSource = {
  folder: "",
  locate: (name) => {
    throw new Error(`the graph has no weight ${name}`);
  },
};

/**
 * Opens `graph`. Nothing is read before the engine does; close the session to free the weights. Throws `runtime/option` for a number of
 * threads that the engine cannot have.
 */
export async function openGraph(graph: Graph, weights: WeightSource, { openSession, ...options }: Engine): Promise<Session> {
  checkCounts("runtime/option", { threads: options.threads }, { most: MAX_THREADS });
  const converted = new Map<string, CheckpointTensor>();
  const model = lower(graph, (name) => {
    const stored = weights.locate(name);
    if (stored.converted) converted.set(stored.location, stored.converted);
    return stored;
  });
  return openSession(model, { ...options, weights, converted });
}
