// The loss of a language model: what the graph of training computes, and what a batch of tokens feeds it.
import type { AnyBatch } from "../data/types.ts";
import type { Graph } from "../graph/graph.ts";
import { gatherRows } from "../graph/ops/indexing.ts";
import { input } from "../graph/ops/leaves.ts";
import { linear } from "../graph/ops/linear.ts";
import { linearCrossEntropy } from "../graph/ops/loss.ts";
import type { DecoderConfig } from "../models/config/config.ts";
import { decoderInputs } from "../models/layers/blocks.ts";
import { forward, forwardWithImages } from "../models/registry.ts";
import { int32, type Tensor } from "../tensor.ts";

/** Rows of the output layer's products; fewer hold less memory, more are faster up to about this many. */
const ROWS_PER_LOSS_CHUNK = 256;
/** Queries of one attention block. */
const QUERIES_PER_BLOCK = 128;
const MAX_BLOCKS = 4;

export interface ObjectiveShape {
  /** Most target tokens and longest row that a batch will have; they size chunks, they are no limits. */
  maxTargets: number;
  maxLength: number;
  /** Whether the batches carry images. */
  images?: boolean;
}

/** How many blocks of queries attention is cut into where the longest row has this many tokens. */
export const attentionBlocksOf = (maxLength: number): number =>
  Math.min(MAX_BLOCKS, Math.max(1, Math.round(maxLength / QUERIES_PER_BLOCK)));

/** How many chunks of rows the output layer and the loss are computed in. */
export const lossChunksOf = (maxTargets: number): number => Math.max(1, Math.ceil(maxTargets / ROWS_PER_LOSS_CHUNK));

/**
 * Σ of the target tokens' losses, from the inputs of `decoderInputs`, the batch's loss rows and labels, and the images of a
 * family that reads them.
 */
export function lossGraph(config: DecoderConfig, { maxTargets, maxLength, images = false }: ObjectiveShape): Graph {
  const inputs = { ...decoderInputs(), attentionBlocks: attentionBlocksOf(maxLength) };
  const { hidden, head } = images ? forwardWithImages(config, inputs) : forward(config, inputs);
  const lossRows = input("lossRows", "int32", ["targets"]);
  const lossLabels = input("lossLabels", "int32", ["targets"]);
  const chunks = lossChunksOf(maxTargets);
  const { weight, path, softcap, added } = head;
  const states = gatherRows(hidden, lossRows);
  const further = added && linear(states, added.weight, added.path);
  const loss = linearCrossEntropy(states, weight, lossLabels, { path, chunks, softcap }, further);
  return { outputs: { loss } };
}

/** A batch under the names of its graph's inputs; of tokens, those of `decoderInputs` and `lossGraph`. */
export function batchFeeds(batch: AnyBatch): Record<string, Tensor> {
  if ("feeds" in batch) return batch.feeds;
  const shape = [batch.rows, batch.width];
  return {
    inputIds: int32(shape, batch.inputIds),
    positionIds: int32(shape, batch.positionIds),
    attentionMask: int32(shape, batch.attentionMask),
    segmentIds: int32(shape, batch.segmentIds),
    lossRows: int32([batch.lossRows.length], batch.lossRows),
    lossLabels: int32([batch.lossLabels.length], batch.lossLabels),
    ...batch.images,
  };
}
