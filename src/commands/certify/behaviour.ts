// How far the outputs of a merged model are from those of the base with its adapter, on the same rows; and how far those of the base alone.
import { layoutOf, partOf, thetaOf, trainedBy } from "../../adapters/layout.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import type { Batch } from "../../data/types.ts";
import { toFloat32 } from "../../formats/float.ts";
import { check, type Graph } from "../../graph/graph.ts";
import { unique } from "../../graph/unique.ts";
import type { AnyBase } from "../../models/base.ts";
import { forwardGraph, type ModelConfig } from "../../models/registry.ts";
import { float32, type Tensor } from "../../tensor.ts";
import { byLayers, type ForwardEngine, openForward } from "../../train/forward.ts";
import { adaptedGraph } from "../../train/training-graph.ts";

/** How far one output is from another, over all rows. */
export interface Difference {
  output: string;
  /** Vectors that were compared: those of tokens, texts or images. */
  vectors: number;
  /** The largest element of the reference, and of the differences; and the mean of these. */
  size: number;
  largest: number;
  mean: number;
  /** Of logits: the Kullback-Leibler divergence from the reference in nats, its mean and largest, and how often the most probable element is the same. */
  divergence?: { mean: number; largest: number };
  agreement?: number;
}

interface Sides {
  base: AnyBase;
  adapter: Adapter;
  merged: AnyBase;
  batches: readonly Batch[];
  engine: ForwardEngine;
  onProgress?: (progress: { row: number; rows: number }) => void;
}

/** Runs the base with its adapter, the merged model and the base alone, one after the other: the weights of one are in memory. */
export async function compareOutputs({ base, adapter, merged, batches, engine, onProgress }: Sides) {
  const trained = trainedBy(adapter);
  const { graph: adapted } = adaptedGraph(outputsOf(base.config), trained);
  const entries = layoutOf(trained);
  const theta = thetaOf(adapter);
  const factors = Object.fromEntries(
    entries.map((entry): [string, Tensor] => [entry.key, float32(entry.shape, partOf(theta, entry))]),
  );
  const hasBase = base.config.uninitializedHead === null;
  const rows = batches.length * (hasBase ? 3 : 2);
  let row = 0;
  const run = async (model: AnyBase, graph: Graph, beside: Record<string, Tensor>, read: ReadOutputs): Promise<void> => {
    const session = await openForward(unique(check(graph)), model.checkpoint, engine, byLayers);
    try {
      await session.bind(beside);
      for (const [i, { feeds }] of batches.entries()) {
        read(await session.run(feeds, { fetches: Object.keys(graph.outputs) }), i);
        onProgress?.({ row: ++row, rows });
      }
    } finally {
      await session.close();
    }
  };
  const reference: Record<string, Tensor>[] = [];
  await run(base, adapted, factors, (outputs) => reference.push(outputs));
  const distance = async (model: AnyBase): Promise<Difference[]> => {
    const sums = differences();
    await run(model, outputsOf(model.config), {}, (outputs, i) => sums.add(reference[i]!, outputs));
    return sums.result();
  };
  return { merged: await distance(merged), base: hasBase ? await distance(base) : null };
}

type ReadOutputs = (outputs: Record<string, Tensor>, row: number) => void;

/** What is compared: the logits of a model that has some, all outputs of another. */
function outputsOf(config: ModelConfig): Graph {
  const { outputs } = forwardGraph(config);
  if (outputs["logits"]) return { outputs: { logits: outputs["logits"] } };
  return { outputs: Object.fromEntries(Object.entries(outputs).filter(([name]) => !name.startsWith("unread."))) };
}

/** Sums up differences of outputs, row by row. */
function differences() {
  const sums = new Map<string, { difference: Difference; elements: number }>();
  return {
    add(reference: Record<string, Tensor>, outputs: Record<string, Tensor>): void {
      for (const [output, tensor] of Object.entries(outputs)) {
        const [expected, found] = [toFloat32(reference[output]!), toFloat32(tensor)];
        const width = tensor.shape.at(-1) ?? 1;
        const start = { output, vectors: 0, size: 0, largest: 0, mean: 0 };
        const sum = sums.get(output) ?? { difference: start, elements: 0 };
        sums.set(output, sum);
        for (let at = 0; at < expected.length; at += width) {
          addVector(sum.difference, expected.subarray(at, at + width), found.subarray(at, at + width));
        }
        sum.elements += expected.length;
      }
    },
    /** Sums become means. */
    result: (): Difference[] =>
      [...sums.values()].map(({ difference, elements }) => {
        const { divergence, agreement, vectors } = difference;
        return {
          ...difference,
          mean: difference.mean / elements,
          ...(divergence && { divergence: { ...divergence, mean: divergence.mean / vectors } }),
          ...(agreement !== undefined && { agreement: agreement / vectors }),
        };
      }),
  };
}

function addVector(sum: Difference, expected: Float32Array, found: Float32Array): void {
  sum.vectors++;
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(expected[i]! - found[i]!);
    sum.mean += off;
    // A NaN is kept.
    if (!(off <= sum.largest)) sum.largest = off;
    sum.size = Math.max(sum.size, Math.abs(expected[i]!));
  }
  if (sum.output !== "logits" || expected.length < 2) return;
  const [p, q] = [logSoftmax(expected), logSoftmax(found)];
  let divergence = 0;
  for (let i = 0; i < p.length; i++) divergence += Math.exp(p[i]!) * (p[i]! - q[i]!);
  sum.divergence ??= { mean: 0, largest: 0 };
  sum.divergence.mean += divergence;
  sum.divergence.largest = Math.max(sum.divergence.largest, divergence);
  sum.agreement = (sum.agreement ?? 0) + Number(argmax(expected) === argmax(found));
}

/** The logarithms of the probabilities behind logits. */
export function logSoftmax(logits: Float32Array): Float64Array {
  let largest = Number.NEGATIVE_INFINITY;
  for (const logit of logits) largest = Math.max(largest, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - largest);
  const shift = largest + Math.log(sum);
  return Float64Array.from(logits, (logit) => logit - shift);
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
