// The border between the training loop and the network: a loss graph as a function of θ, over one ONNX session.

import { gateFeeds } from "../adapters/inject.ts";
import { layoutOf, lengthOfTheta, partOf, type ThetaEntry, type Trained, trainedEntries } from "../adapters/layout.ts";
import type { Batch } from "../data/types.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { Graph, Node } from "../graph/graph.ts";
import { type Program, whole } from "../graph/stages.ts";
import { weightFiles } from "../models/weights.ts";
import { purpose, uniform } from "../random.ts";
import { type Engine, openProgram } from "../runtime/open-graph.ts";
import type { Session } from "../runtime/session.ts";
import { float32, int32, sizeOf, type Tensor } from "../tensor.ts";
import { lengthOf, type SymbolLengths } from "./memory.ts";
import { findOutliers } from "./outliers.ts";
import { type StageOptions, trainingProgram } from "./stages.ts";
import { fullEntries, fullGraph, gradientName, inputsOf, isAtBorder, loraGraph } from "./training-graph.ts";

export interface ObjectiveOptions extends Engine {
  checkpoint: Checkpoint;
  /** The loss of what a batch feeds, summed over its targets. */
  loss: Graph;
  /** How the graph is cut into stages; it runs in one piece if absent. */
  stages?: StageOptions;
  /** The run's first batch: by it weights in integers find what stands out of their layers' inputs (`findOutliers`). */
  first?: () => Promise<Batch>;
}

/** A training graph, and the program that runs it. */
export interface TrainingGraph {
  /** With the inputs and outputs of `loraGraph` and `fullGraph`. */
  graph: Graph;
  program: Program;
  entries: readonly ThetaEntry[];
  /** Probability that an input element of loraA is dropped in training. */
  dropout: number;
  /** What the graph reads beside a batch. */
  beside?: (batch: Record<string, Tensor>) => Record<string, Tensor>;
}

export interface LoraObjectiveOptions extends ObjectiveOptions, Trained {
  /** Probability that an input element of loraA is dropped in training. */
  dropout: number;
}

/** Identifies, with the keys of a batch's rows, the random numbers of one forward pass, so that dropout resumes to the same bits. */
export interface DropoutKey {
  seed: number;
  step: number;
  /** In place of the key of rows that have none. */
  micro: number;
}

/** A network seen from the training loop: a function of a flat parameter vector θ. */
export interface Objective {
  readonly entries: readonly ThetaEntry[];
  /** Each batch is given to it, also one without rows: the processes that share a batch wait for each other. */
  readonly meets?: boolean;
  /**
   * The sum of the token losses of `batch` divided by `divisor`, and its gradient with respect to what of θ is trained. The
   * gradient's memory belongs to the caller until the next call, which may write there.
   */
  lossAndGradient(
    batch: Batch,
    theta: Float32Array,
    divisor: number,
    key: DropoutKey,
  ): Promise<{ loss: number; gradient: Float32Array }>;
  /** All outputs of the loss graph for `batch`, without dropout unless a key is given: `loss`, the sum over its targets, and what is measured beside it. */
  evaluate(batch: Batch, theta: Float32Array, key?: DropoutKey | null): Promise<Record<string, Tensor>>;
}

/** An objective holds a session; close it to free the weights. */
export type OpenObjective = Objective & { close(): Promise<void> };

/** Opens the training session of a LoRA adapter; θ holds its factors. */
export const loraObjective = (options: LoraObjectiveOptions): Promise<OpenObjective> => {
  const { dropout } = options;
  const beside = (batch: Record<string, Tensor>) => gateFeeds(options.config, batch);
  return openGraphOf(loraGraph(options.loss, options, dropout > 0), layoutOf(options), options, { dropout, beside });
};

/** Opens the training session of all weights; θ holds them, so the checkpoint's files are read only for its first value. */
export const fullObjective = (options: ObjectiveOptions): Promise<OpenObjective> =>
  openGraphOf(fullGraph(options.loss), fullEntries(options.loss), options, { dropout: 0 });

const openGraphOf = (
  graph: Graph,
  entries: readonly ThetaEntry[],
  { stages, ...options }: ObjectiveOptions,
  own: Pick<TrainingGraph, "dropout" | "beside">,
) => {
  const program = stages ? trainingProgram(graph, entries, stages) : whole(graph);
  return openObjective({ graph, program, entries, ...own }, { ...options, streamed: stages?.streamed });
};

/** Opens the session of a training graph. θ and its gradient are shared memory. */
export async function openObjective(
  { graph, program, entries, dropout, beside }: TrainingGraph,
  { checkpoint, loss, first, openSession, ...options }: Omit<ObjectiveOptions, "stages">,
): Promise<OpenObjective> {
  const outliers = await findOutliers(program, { loss, checkpoint, openSession, threads: options.threads, first });
  const session = await openProgram(program, weightFiles(checkpoint), { openSession, ...options });
  try {
    return await objectiveOf(session, { graph, entries, dropout, beside }, outliers);
  } catch (error) {
    await session.close();
    throw error;
  }
}

/** The objective over an open session, which is given its first values. */
async function objectiveOf(
  session: Session,
  { graph, entries, dropout, beside }: Omit<TrainingGraph, "program">,
  outliers: Record<string, Tensor>,
): Promise<OpenObjective> {
  await session.bind(outliers);
  const shared = (of: readonly ThetaEntry[]) => new Float32Array(new SharedArrayBuffer(4 * lengthOfTheta(of)));
  const trained = trainedEntries(entries);
  const [values, gradients] = [shared(entries), shared(trained)];
  await session.share(
    Object.fromEntries(entries.map((entry) => [entry.key, float32(entry.shape, partOf(values, entry))])),
    Object.fromEntries(trained.map((entry) => [gradientName(entry), float32(entry.shape, partOf(gradients, entry))])),
  );
  const { pools, starts, others } = inputsOf(graph);
  await session.bind(Object.fromEntries([...starts].map(([name, start]) => [name, int32([1], [start])])));
  /** What dropout is fed beside a batch: its random numbers, none at all in evaluation (null). */
  const drawn = ({ rowKeys }: Batch, feeds: Record<string, Tensor>, key: DropoutKey | null): Record<string, Tensor> => {
    if (dropout === 0) return {};
    const lengths = lengthsIn(others, feeds);
    const numbers = pools.map(({ attributes, outputs }, i): [string, Tensor] => {
      const shape = outputs[0]!.shape.map((dim) => lengthOf(dim, lengths));
      const pool = new Float32Array(sizeOf(shape));
      if (key) drawRows(key, rowKeys, i, pool, shape[0]!);
      return [String(attributes["name"]), float32(shape, pool)];
    });
    return { ...Object.fromEntries(numbers), dropoutRate: float32([], Float32Array.of(key ? dropout : 0)) };
  };
  const run = async (batch: Batch, theta: Float32Array, scale: number, key: DropoutKey | null, fetches: string[]) => {
    values.set(theta);
    const { feeds } = batch;
    const given = { ...feeds, ...beside?.(feeds), lossScale: float32([], Float32Array.of(scale)), ...drawn(batch, feeds, key) };
    return session.run(given, { fetches });
  };
  const gradientNames = trained.map(gradientName);
  const measured = Object.keys(graph.outputs).filter((name) => !gradientNames.includes(name) && !isAtBorder(name));
  return {
    entries,
    lossAndGradient: async (batch, theta, divisor, key) => {
      const { loss } = await run(batch, theta, 1 / divisor, key, ["loss", ...gradientNames]);
      return { loss: Number(loss!.data[0]), gradient: gradients };
    },
    evaluate: (batch, theta, key = null) => run(batch, theta, 1, key, measured),
    close: () => session.close(),
  };
}

/**
 * Fills the `index`th pool [rows, width] of a batch: each of the batch's rows has numbers of its own, whatever rows stand beside it and
 * however far it is padded. A pool whose rows are not as many for each of them is drawn as one.
 */
function drawRows(
  { seed, step, micro }: DropoutKey,
  keys: readonly number[] = [micro],
  index: number,
  pool: Float32Array,
  rows: number,
) {
  const own = rows % keys.length === 0 ? keys : keys.slice(0, 1);
  const length = pool.length / own.length;
  for (const [row, key] of own.entries())
    uniform(seed, [purpose.dropout, step, key, index], pool.subarray(row * length, (row + 1) * length));
}

/** The lengths behind the symbols of a graph's inputs, from the tensors they are fed. */
export function lengthsIn(inputs: readonly Node[], feeds: Record<string, Tensor>): SymbolLengths {
  const known = inputs.flatMap(({ attributes, outputs }) => {
    const { shape = [] } = feeds[String(attributes["name"])] ?? {};
    return shape.map((length, axis) => [outputs[0]!.shape[axis]!, length] as const);
  });
  return Object.fromEntries(known);
}
