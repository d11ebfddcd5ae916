// A graph that is only evaluated, as a program that needs little memory: a stage for each layer, with weights that can be streamed.
import { borders } from "./borders.ts";
import type { Graph } from "./graph.ts";
import { cut, type Program } from "./stages.ts";
import { type ChooseForm, storeWeights } from "./store.ts";
import { tablesByRows } from "./tables.ts";
import { unique } from "./unique.ts";

/** The program of `graph`, with its weights in the forms that `form` chooses. Results have the names of its outputs. */
export function forwardProgram(graph: Graph, form: ChooseForm): Program {
  const { outputs } = tablesByRows(storeWeights(unique(graph), form)).graph;
  const edges = Object.values(outputs).flatMap((output) => borders(output, () => false));
  return cut([...edges.map((edge, i) => ({ [`border ${i}`]: edge })), outputs], () => false);
}
