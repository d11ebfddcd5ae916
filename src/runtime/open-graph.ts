// The one way from a graph to a session: lowered, its frozen weights left where their source has them.
import type { Graph } from "../graph/graph.ts";
import type { LocateWeight } from "../onnx/emitter.ts";
import { lower } from "../onnx/lower.ts";
import type { OpenSession, Session, SessionOptions } from "./session.ts";

/** Where the frozen weights of a graph lie. */
export interface WeightSource {
  /** The folder that every weight file lies in or below. */
  folder: string;
  /** The place of a weight, by the model's name. Fails with `checkpoint/missing-tensor`. */
  locate: LocateWeight;
}

/** What opens sessions, and how. */
export interface Engine extends Omit<SessionOptions, "weightsFolder"> {
  openSession: OpenSession;
}

/** The source of a graph that reads no weights. */
export const noWeights: WeightSource = {
  folder: "",
  locate: (name) => {
    throw new Error(`the graph has no weight ${name}`);
  },
};

/** Opens `graph`. Nothing is read before the engine does; close the session to free the weights. */
export function openGraph(graph: Graph, { folder, locate }: WeightSource, { openSession, ...options }: Engine): Promise<Session> {
  return openSession(lower(graph, locate), { ...options, ...(folder !== "" && { weightsFolder: folder }) });
}
