// A graph that is evaluated over a checkpoint and not trained: in stages, whose weights are streamed as they are stored.
import type { Checkpoint } from "../formats/checkpoint.ts";
import { plainDType } from "../formats/stored.ts";
import { borders } from "../graph/borders.ts";
import type { Graph } from "../graph/graph.ts";
import { cut } from "../graph/stages.ts";
import { storeWeights } from "../graph/store.ts";
import { tablesByRows } from "../graph/tables.ts";
import { weightFiles } from "../models/weights.ts";
import { inFolder } from "../onnx/emitter.ts";
import { type Engine, openGraph, openProgram } from "../runtime/open-graph.ts";
import type { Session } from "../runtime/session.ts";
import { storedForm } from "./execution.ts";

/** `stages`: whether a program can have several. */
export type ForwardEngine = Pick<Engine, "openSession" | "threads"> & { stages?: boolean };

/** Which outputs a stage computes, in the order of the forward pass. */
type Sections = (outputs: Graph["outputs"]) => Graph["outputs"][];

/** A stage for each layer, and the outputs in the last. */
export const byLayers: Sections = (outputs) => {
  const edges = Object.values(outputs).flatMap((output) => borders(output, () => false));
  return [...edges.map((edge, i) => ({ [`border ${i}`]: edge })), outputs];
};

/** A stage for each output. */
export const byOutputs: Sections = (outputs) => Object.entries(outputs).map(([name, value]) => ({ [name]: value }));

/** Opens `graph`, whole where the engine knows no stages. Close it to free the weights. */
export function openForward(
  graph: Graph,
  checkpoint: Checkpoint,
  { stages = false, ...engine }: ForwardEngine,
  sections: Sections,
): Promise<Session> {
  const weights = weightFiles(checkpoint);
  if (!stages) return openGraph(graph, weights, engine);
  const { outputs } = tablesByRows(
    storeWeights(
      graph,
      storedForm((name) => plainDType(inFolder(weights.folder, weights.locate(name)))),
    ),
  ).graph;
  const program = cut(sections(outputs), () => false);
  return openProgram(program, weights, { ...engine, streamed: true });
}
