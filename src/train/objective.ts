// A loss graph and what of it is trained, as a function of θ over one ONNX session.

import { layoutOf, lengthOfTheta, partOf, type ThetaEntry, type Trained } from "../adapters/layout.ts";
import type { Batch } from "../data/types.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { Graph, Node } from "../graph/graph.ts";
import { weightFiles } from "../models/weights.ts";
import { purpose, uniform } from "../random.ts";
import { type Engine, openGraph } from "../runtime/open-graph.ts";
import type { Session } from "../runtime/session.ts";
import { float32, sizeOf, type Tensor } from "../tensor.ts";
import { type Lengths, lengthOf } from "./memory.ts";
import { fullEntries, fullGraph, gradientName, inputsOf, loraGraph } from "./training-graph.ts";
import type { DropoutKey, Objective } from "./types.ts";

export interface ObjectiveOptions extends Engine {
  checkpoint: Checkpoint;
  /** The loss of what a batch feeds, summed over its targets. */
  loss: Graph;
}

export interface LoraObjectiveOptions extends ObjectiveOptions, Trained {
  /** Probability that an input element of loraA is dropped in training. */
  dropout: number;
}

/** An objective holds a session; close it to free the weights. */
export type OpenObjective = Objective & { close(): Promise<void> };

/** Opens the training session of a LoRA adapter; θ holds its factors. */
export async function loraObjective(options: LoraObjectiveOptions): Promise<OpenObjective> {
  const { dropout } = options;
  const graph = loraGraph(options.loss, options, dropout > 0);
  const session = await openTraining(graph, options);
  const { pools, others } = inputsOf(graph);
  const draw: Draw = (feeds, key) => {
    if (dropout === 0) return {};
    const lengths = lengthsIn(others, feeds);
    const numbers = pools.map(({ attributes, outputs }, i): [string, Tensor] => {
      const shape = outputs[0]!.shape.map((dim) => lengthOf(dim, lengths));
      const drawn = key
        ? uniform(key.seed, [purpose.dropout, key.step, key.micro, i], sizeOf(shape))
        : new Float32Array(sizeOf(shape));
      return [String(attributes["name"]), float32(shape, drawn)];
    });
    return { ...Object.fromEntries(numbers), dropoutRate: float32([], Float32Array.of(key ? dropout : 0)) };
  };
  return sessionObjective(session, layoutOf(options), draw, graph);
}

/** What beside a batch's feeds a run is fed: random numbers, none at all (null) in evaluation. */
type Draw = (feeds: Record<string, Tensor>, key: DropoutKey | null) => Record<string, Tensor>;

/** The lengths behind the symbols of a graph's inputs, from the tensors they are fed. */
function lengthsIn(inputs: readonly Node[], feeds: Record<string, Tensor>): Lengths {
  const known = inputs.flatMap(({ attributes, outputs }) => {
    const { shape = [] } = feeds[String(attributes["name"])] ?? {};
    return shape.map((length, axis) => [outputs[0]!.shape[axis]!, length] as const);
  });
  return Object.fromEntries(known);
}

/** Opens the training session of all weights; θ holds them, so the checkpoint's files are read only for its first value. */
export async function fullObjective(options: ObjectiveOptions): Promise<OpenObjective> {
  const graph = fullGraph(options.loss);
  const session = await openTraining(graph, options);
  return sessionObjective(session, fullEntries(options.loss), () => ({}), graph);
}

const openTraining = (graph: Graph, { checkpoint, openSession, threads, profile }: ObjectiveOptions): Promise<Session> =>
  openGraph(graph, weightFiles(checkpoint), { openSession, threads, profile });

/** An Objective over an open session with the inputs and outputs of `withGradient`. θ and its gradient are shared memory. */
async function sessionObjective(
  session: Session,
  entries: readonly ThetaEntry[],
  draw: Draw,
  { outputs }: Graph,
): Promise<OpenObjective> {
  const length = lengthOfTheta(entries);
  const [values, gradients] = [0, 1].map(() => new Float32Array(new SharedArrayBuffer(4 * length))) as [
    Float32Array,
    Float32Array,
  ];
  await session.share(
    Object.fromEntries(entries.map((entry) => [entry.key, float32(entry.shape, partOf(values, entry))])),
    Object.fromEntries(entries.map((entry) => [gradientName(entry), float32(entry.shape, partOf(gradients, entry))])),
  );
  const run = async ({ feeds }: Batch, theta: Float32Array, scale: number, key: DropoutKey | null, fetches: string[]) => {
    values.set(theta);
    const given = { ...feeds, lossScale: float32([], Float32Array.of(scale)), ...draw(feeds, key) };
    return session.run(given, { fetches });
  };
  const gradientNames = entries.map(gradientName);
  const measured = Object.keys(outputs).filter((name) => !gradientNames.includes(name));
  return {
    entries,
    lossAndGradient: async (batch, theta, divisor, key) => {
      const { loss } = await run(batch, theta, 1 / divisor, key, ["loss", ...gradientNames]);
      return { loss: Number(loss!.data[0]), gradient: gradients };
    },
    evaluate: (batch, theta) => run(batch, theta, 1, null, measured),
    close: () => session.close(),
  };
}
