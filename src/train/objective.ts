// The training graph of a decoder: loss and its gradient with respect to θ, as one ONNX session.
import type { Batch } from "../data/types.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { gradients } from "../graph/autodiff.ts";
import { fuseAdditions } from "../graph/fuse.ts";
import { check, type Graph, type Value } from "../graph/graph.ts";
import { mul } from "../graph/ops/elementwise.ts";
import { gatherRows } from "../graph/ops/indexing.ts";
import { input } from "../graph/ops/leaves.ts";
import { linearCrossEntropy } from "../graph/ops/loss.ts";
import { concat, reshape, slice } from "../graph/ops/shape.ts";
import { dropoutPoolWidth, inject, type LoraFactors, loraUpdate, pooledDropout } from "../lora/inject.ts";
import type { AdapterModule } from "../lora/match.ts";
import { decoderInputs } from "../models/blocks.ts";
import type { DecoderConfig } from "../models/config.ts";
import { decoders } from "../models/registry.ts";
import { weightFiles } from "../models/weights.ts";
import { lower } from "../onnx/lower.ts";
import { purpose, uniform } from "../random.ts";
import type { OpenSession, Session } from "../runtime/session.ts";
import { float32, int32, sizeOf, type Tensor } from "../tensor.ts";
import type { DropoutKey, Objective, ThetaEntry } from "./types.ts";

/** Rows of the output layer's products; fewer hold less memory, more are faster up to about this many. */
const ROWS_PER_LOSS_CHUNK = 128;
/** Queries of one attention block. */
const QUERIES_PER_BLOCK = 128;
const MAX_BLOCKS = 4;

export interface ObjectiveShape {
  /** Most target tokens and longest row that a batch will have; they size chunks, they are no limits. */
  maxTargets: number;
  maxLength: number;
}

/** The tensors of θ for LoRA factors: A then B of each module, in the order of the modules. */
export function loraEntries(modules: readonly AdapterModule[]): ThetaEntry[] {
  let offset = 0;
  return modules.flatMap(({ path, rank, inFeatures, outFeatures }) =>
    (["A", "B"] as const).map((group): ThetaEntry => {
      const shape = group === "A" ? [rank, inFeatures] : [outFeatures, rank];
      const entry = { key: `base_model.model.${path}.lora_${group}.weight`, offset, shape, group };
      offset += sizeOf(shape);
      return entry;
    }),
  );
}

const totalSize = (entries: readonly ThetaEntry[]) => entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0);

/** Σ of the target tokens' losses, from the inputs of `decoderInputs` and the batch's loss rows and labels. */
export function lossGraph(config: DecoderConfig, { maxTargets, maxLength }: ObjectiveShape): Graph {
  const attentionBlocks = Math.min(MAX_BLOCKS, Math.max(1, Math.round(maxLength / QUERIES_PER_BLOCK)));
  const { hidden, head } = decoders[config.modelType](config, { ...decoderInputs(), attentionBlocks });
  const lossRows = input("lossRows", "int32", ["targets"]);
  const lossLabels = input("lossLabels", "int32", ["targets"]);
  const chunks = Math.max(1, Math.ceil(maxTargets / ROWS_PER_LOSS_CHUNK));
  return { outputs: { loss: linearCrossEntropy(gatherRows(hidden, lossRows), head.weight, lossLabels, head.path, chunks) } };
}

/** A graph that also yields dloss/dθ: `parts` are the trained tensors in the order of θ. */
function withGradient(graph: Graph, parts: readonly Value[]): Graph {
  const loss = mul(graph.outputs["loss"]!, input("lossScale", "float32", []));
  const flat = gradients(loss, parts).map((gradient) => reshape(gradient, [sizeOf(gradient.shape as number[])]));
  return fuseAdditions(check({ outputs: { loss, gradient: concat(flat, 0) } }));
}

/** The graph of LoRA training: θ is cut into factors, which are injected beside the frozen layers. */
export function loraGraph(
  config: DecoderConfig,
  modules: readonly AdapterModule[],
  shape: ObjectiveShape,
  dropout: boolean,
): Graph {
  const entries = loraEntries(modules);
  const theta = input("theta", "float32", [totalSize(entries)]);
  const parts = entries.map((entry) => reshape(slice(theta, 0, entry.offset, entry.offset + sizeOf(entry.shape)), entry.shape));
  const factors = new Map(
    modules.map(({ path, scale }, i): [string, LoraFactors] => [path, { loraA: parts[2 * i]!, loraB: parts[2 * i + 1]!, scale }]),
  );
  const drop = dropout
    ? pooledDropout(
        modules,
        input("dropoutPool", "float32", ["batch*seq", dropoutPoolWidth(modules)]),
        input("dropoutRate", "float32", []),
      )
    : undefined;
  return withGradient(inject(lossGraph(config, shape), loraUpdate(factors, drop)), parts);
}

export interface LoraObjectiveOptions extends ObjectiveShape {
  checkpoint: Checkpoint;
  config: DecoderConfig;
  modules: readonly AdapterModule[];
  /** Probability that an input element of loraA is dropped in training. */
  dropout: number;
  openSession: OpenSession;
  threads?: number;
  profile?: string;
}

/** Opens the training session of a LoRA adapter. */
export async function loraObjective(options: LoraObjectiveOptions): Promise<Objective & { close(): Promise<void> }> {
  const { checkpoint, config, modules, dropout } = options;
  const files = weightFiles(checkpoint);
  const model = lower(loraGraph(config, modules, options, dropout > 0), files.locate);
  const session = await options.openSession(model, {
    weightsFolder: files.folder,
    threads: options.threads,
    profile: options.profile,
  });
  const width = dropoutPoolWidth(modules);
  const pool = (batch: Batch, key: DropoutKey | null): Record<string, Tensor> => {
    if (dropout === 0) return {};
    const shape = [batch.rows * batch.width, width];
    const numbers = key
      ? uniform(key.seed, [purpose.dropout, key.step, key.micro], sizeOf(shape))
      : new Float32Array(sizeOf(shape));
    return { dropoutPool: float32(shape, numbers), dropoutRate: float32([], Float32Array.of(key ? dropout : 0)) };
  };
  return sessionObjective(session, loraEntries(modules), pool);
}

/** An Objective over an open session with the inputs and outputs of `withGradient`. */
function sessionObjective(
  session: Session,
  entries: readonly ThetaEntry[],
  extra: (batch: Batch, key: DropoutKey | null) => Record<string, Tensor>,
): Objective & { close(): Promise<void> } {
  const run = async (batch: Batch, theta: Float32Array, scale: number, key: DropoutKey | null) =>
    session.run({
      ...batchFeeds(batch),
      theta: float32([theta.length], theta),
      lossScale: float32([], Float32Array.of(scale)),
      ...extra(batch, key),
    });
  return {
    entries,
    lossAndGradient: async (batch, theta, divisor, key) => {
      const { loss, gradient } = await run(batch, theta, 1 / divisor, key);
      return { loss: Number(loss!.data[0]), gradient: gradient!.data as Float32Array };
    },
    loss: async (batch, theta) => Number((await run(batch, theta, 1, null))["loss"]!.data[0]),
    close: () => session.close(),
  };
}

/** A batch under the names of `decoderInputs` and `lossGraph`. */
export function batchFeeds(batch: Batch): Record<string, Tensor> {
  const shape = [batch.rows, batch.width];
  return {
    inputIds: int32(shape, batch.inputIds),
    positionIds: int32(shape, batch.positionIds),
    attentionMask: int32(shape, batch.attentionMask),
    segmentIds: int32(shape, batch.segmentIds),
    lossRows: int32([batch.lossRows.length], batch.lossRows),
    lossLabels: int32([batch.lossLabels.length], batch.lossLabels),
  };
}
