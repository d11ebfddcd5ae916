// Parts of losses: those of target tokens (cross-entropy of the next token, fused with the output layer), and functions of values.
import type { Graph, Value } from "../../graph/graph.ts";
import { add, exp, less, log, neg, where } from "../../graph/ops/elementwise.ts";
import { gatherRows } from "../../graph/ops/indexing.ts";
import { input, scalar } from "../../graph/ops/leaves.ts";
import { linear } from "../../graph/ops/linear.ts";
import { linearCrossEntropy } from "../../graph/ops/output-layer.ts";
import { sumOf } from "../../graph/ops/reduction.ts";
import type { DecoderConfig } from "../../models/config/config.ts";
import { decoderInputs } from "../../models/layers/blocks.ts";
import { backboneOf, forward, type ModelConfig } from "../../models/registry.ts";
import type { BatchShape } from "../task.ts";

/** Rows and columns of the output layer's products: logits of 64 MB at most. Each chunk of the vocabulary serves all chunks of rows. */
const ROWS_PER_LOSS_CHUNK = 4096;
const WORDS_PER_LOSS_CHUNK = 4096;
/**
 * Queries of an attention block: few are fast, since a causal block skips more keys. Beyond some blocks, larger ones: each adds nodes to
 * every layer, and a session opens slower with more nodes.
 */
const QUERIES_PER_BLOCK = 128;
const FAST_BLOCKS = 4;
const QUERIES_PER_LARGE_BLOCK = 256;
const MAX_BLOCKS = 8;

/** How many blocks of queries attention is cut into where the longest row has this many tokens. */
export function attentionBlocksOf(maxLength: number): number {
  const few = Math.min(FAST_BLOCKS, Math.round(maxLength / QUERIES_PER_BLOCK));
  return Math.max(1, few, Math.min(MAX_BLOCKS, Math.round(maxLength / QUERIES_PER_LARGE_BLOCK)));
}

/** How many chunks of rows the output layer and the loss are computed in. */
export const lossChunksOf = (maxTargets: number): number => Math.max(1, Math.ceil(maxTargets / ROWS_PER_LOSS_CHUNK));

/** How many chunks of the vocabulary. */
const vocabChunksOf = (vocab: number): number => Math.max(1, Math.round(vocab / WORDS_PER_LOSS_CHUNK));

/** Σ of the target tokens' losses, from what `tokenLosses` reads. */
export const lossGraph = (config: DecoderConfig, shape: BatchShape): Graph => ({
  outputs: { loss: sumOf(tokenLosses(config, shape)) },
});

/**
 * The loss of each target token [targets], from the inputs of `decoderInputs`, int32 `lossRows` and `lossLabels` [targets], and the images
 * of a family that reads them.
 */
export function tokenLosses(config: DecoderConfig, { maxTargets, maxLength, images = false }: BatchShape): Value {
  const inputs = { ...decoderInputs(), attentionBlocks: attentionBlocksOf(maxLength) };
  const { hidden, output } = images ? backboneOf(config as ModelConfig & DecoderConfig, inputs) : forward(config, inputs);
  const lossRows = input("lossRows", "int32", ["targets"]);
  const lossLabels = input("lossLabels", "int32", ["targets"]);
  const { weight, path, softcap, added } = output!;
  const states = gatherRows(hidden!, lossRows);
  const further = added && linear(states, added.weight, added.path);
  const attributes = { path, chunks: lossChunksOf(maxTargets), vocabChunks: vocabChunksOf(Number(weight.shape[0])), softcap };
  return linearCrossEntropy(states, weight, lossLabels, attributes, further);
}

/** log(1 + e^x), elementwise, without overflow: max(x, 0) + log(1 + e^-|x|). */
export function softplus(x: Value): Value {
  const zero = scalar(0, x);
  const isNegative = less(x, zero);
  const decay = exp(where(isNegative, x, neg(x))); // e^-|x|
  return add(where(isNegative, zero, x), log(add(decay, scalar(1, x))));
}

/** log σ(x) = -log(1 + e^-x), elementwise. */
export const logSigmoid = (x: Value): Value => neg(softplus(neg(x)));
