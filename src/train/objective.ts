// The training graph of a decoder: loss and its gradient with respect to θ, as one ONNX session.
import type { Batch } from "../data/types.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { gradients } from "../graph/autodiff.ts";
import { fuseAdditions } from "../graph/fuse.ts";
import { check, type Graph, nodesOf, rewrite, type Value } from "../graph/graph.ts";
import { mul } from "../graph/ops/elementwise.ts";
import { gatherRows } from "../graph/ops/indexing.ts";
import { input } from "../graph/ops/leaves.ts";
import { linearCrossEntropy } from "../graph/ops/loss.ts";
import { dropoutPoolWidth, inject, type LoraFactors, loraUpdate, pooledDropout } from "../lora/inject.ts";
import type { AdapterModule } from "../lora/match.ts";
import { decoderInputs } from "../models/blocks.ts";
import type { DecoderConfig } from "../models/config.ts";
import { forward } from "../models/registry.ts";
import { weightFiles } from "../models/weights.ts";
import { lower } from "../onnx/lower.ts";
import { purpose, uniform } from "../random.ts";
import type { OpenSession, Session } from "../runtime/session.ts";
import { float32, int32, sizeOf, type Tensor } from "../tensor.ts";
import type { DropoutKey, Objective, ThetaEntry } from "./types.ts";

/** Rows of the output layer's products; fewer hold less memory, more are faster up to about this many. */
const ROWS_PER_LOSS_CHUNK = 256;
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

/** How many blocks of queries attention is cut into where the longest row has this many tokens. */
export const attentionBlocksOf = (maxLength: number): number =>
  Math.min(MAX_BLOCKS, Math.max(1, Math.round(maxLength / QUERIES_PER_BLOCK)));

/** How many chunks of rows the output layer and the loss are computed in. */
export const lossChunksOf = (maxTargets: number): number => Math.max(1, Math.ceil(maxTargets / ROWS_PER_LOSS_CHUNK));

/** Σ of the target tokens' losses, from the inputs of `decoderInputs` and the batch's loss rows and labels. */
export function lossGraph(config: DecoderConfig, { maxTargets, maxLength }: ObjectiveShape): Graph {
  const attentionBlocks = attentionBlocksOf(maxLength);
  const { hidden, head } = forward(config, { ...decoderInputs(), attentionBlocks });
  const lossRows = input("lossRows", "int32", ["targets"]);
  const lossLabels = input("lossLabels", "int32", ["targets"]);
  const chunks = lossChunksOf(maxTargets);
  const { weight, path, softcap } = head;
  return { outputs: { loss: linearCrossEntropy(gatherRows(hidden, lossRows), weight, lossLabels, { path, chunks, softcap }) } };
}

/** A graph that also yields dloss/dθ: the gradient of each trained tensor under its key. */
function withGradient(graph: Graph, entries: readonly ThetaEntry[], parts: readonly Value[]): Graph {
  const loss = mul(graph.outputs["loss"]!, input("lossScale", "float32", []));
  const named = gradients(loss, parts).map((gradient, i) => [gradientName(entries[i]!), gradient]);
  return fuseAdditions(check({ outputs: { loss, ...Object.fromEntries(named) } }));
}

const gradientName = ({ key }: ThetaEntry) => `gradient ${key}`;

/** The tensors of θ as inputs under their keys: in the order of `loraEntries`, and as the factors of each path. */
export function loraInputs(modules: readonly AdapterModule[]): { parts: Value[]; factors: Map<string, LoraFactors> } {
  const parts = loraEntries(modules).map(({ key, shape }) => input(key, "float32", shape));
  const factors = modules.map(({ path, scale }, i): [string, LoraFactors] => [
    path,
    { loraA: parts[2 * i]!, loraB: parts[2 * i + 1]!, scale },
  ]);
  return { parts, factors: new Map(factors) };
}

/** The graph of LoRA training: the tensors of θ are inputs under their keys, injected beside the frozen layers. */
export function loraGraph(
  config: DecoderConfig,
  modules: readonly AdapterModule[],
  shape: ObjectiveShape,
  dropout: boolean,
): Graph {
  const { parts, factors } = loraInputs(modules);
  const drop = dropout
    ? pooledDropout(
        modules,
        input("dropoutPool", "float32", ["batch*seq", dropoutPoolWidth(modules)]),
        input("dropoutRate", "float32", []),
      )
    : undefined;
  const graph = lossGraph(config, shape);
  return withGradient(inject(graph, loraUpdate(graph, factors, drop)), loraEntries(modules), parts);
}

/** The tensors of θ for full fine-tuning: every weight of the model under its stored name, in the order of the forward pass. */
export function fullEntries(config: DecoderConfig): ThetaEntry[] {
  let offset = 0;
  return nodesOf(lossGraph(config, { maxTargets: 1, maxLength: 1 }))
    .filter((node) => node.op === "weight")
    .map(({ attributes }): ThetaEntry => {
      const entry = { key: String(attributes["name"]), offset, shape: attributes["shape"] as number[], group: "weight" as const };
      offset += sizeOf(entry.shape);
      return entry;
    });
}

/** The graph of full fine-tuning: every weight becomes an input under its stored name. */
export function fullGraph(config: DecoderConfig, shape: ObjectiveShape): Graph {
  const entries = fullEntries(config);
  const parts = new Map(entries.map((entry) => [entry.key, input(entry.key, "float32", entry.shape)]));
  const trainable = rewrite(lossGraph(config, shape), (node) =>
    node.op === "weight" ? [parts.get(String(node.attributes["name"]))!] : null,
  );
  return withGradient(
    inject(trainable, (_path, _x, y) => y),
    entries,
    [...parts.values()],
  );
}

export interface ObjectiveOptions extends ObjectiveShape {
  checkpoint: Checkpoint;
  config: DecoderConfig;
  openSession: OpenSession;
  threads?: number;
  /** Where ONNX Runtime's profile goes; off if absent. */
  profile?: string;
}

export interface LoraObjectiveOptions extends ObjectiveOptions {
  modules: readonly AdapterModule[];
  /** Probability that an input element of loraA is dropped in training. */
  dropout: number;
}

/** An objective holds a session; close it to free the weights. */
export type OpenObjective = Objective & { close(): Promise<void> };

/** Opens the training session of a LoRA adapter; θ holds its factors. */
export async function loraObjective(options: LoraObjectiveOptions): Promise<OpenObjective> {
  const { config, modules, dropout } = options;
  const session = await openTraining(loraGraph(config, modules, options, dropout > 0), options);
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

/** Opens the training session of all weights; θ holds them, so the checkpoint's files are read only for its first value. */
export async function fullObjective(options: ObjectiveOptions): Promise<OpenObjective> {
  const session = await openTraining(fullGraph(options.config, options), options);
  return sessionObjective(session, fullEntries(options.config), () => ({}));
}

function openTraining(graph: Graph, { checkpoint, openSession, threads, profile }: ObjectiveOptions): Promise<Session> {
  const files = weightFiles(checkpoint);
  return openSession(lower(graph, files.locate), { weightsFolder: files.folder, threads, profile });
}

/** An Objective over an open session with the inputs and outputs of `withGradient`. θ and its gradient are shared memory. */
async function sessionObjective(
  session: Session,
  entries: readonly ThetaEntry[],
  extra: (batch: Batch, key: DropoutKey | null) => Record<string, Tensor>,
): Promise<OpenObjective> {
  const length = entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const [values, slopes] = [0, 1].map(() => new Float32Array(new SharedArrayBuffer(4 * length))) as [Float32Array, Float32Array];
  const part = (whole: Float32Array, { offset, shape }: ThetaEntry) => whole.subarray(offset, offset + sizeOf(shape));
  await session.share(
    Object.fromEntries(entries.map((entry) => [entry.key, float32(entry.shape, part(values, entry))])),
    Object.fromEntries(entries.map((entry) => [gradientName(entry), float32(entry.shape, part(slopes, entry))])),
  );
  const run = async (batch: Batch, theta: Float32Array, scale: number, key: DropoutKey | null, fetches?: string[]) => {
    values.set(theta);
    const feeds = { ...batchFeeds(batch), lossScale: float32([], Float32Array.of(scale)), ...extra(batch, key) };
    return Number((await session.run(feeds, { fetches }))["loss"]!.data[0]);
  };
  return {
    entries,
    lossAndGradient: async (batch, theta, divisor, key) => {
      const loss = await run(batch, theta, 1 / divisor, key);
      return { loss, gradient: slopes };
    },
    loss: (batch, theta) => run(batch, theta, 1, null, ["loss"]),
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
