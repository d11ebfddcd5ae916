// What differs between golden cases by task: the batches their inputs stand for, what the forward pass is fed, which numbers count.
import type { AnyBatch } from "../../src/data/types.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import type { Graph } from "../../src/graph/graph.ts";
import type { AnyBase } from "../../src/models/base.ts";
import { float32, int32, type Tensor } from "../../src/tensor.ts";
import { batchFeeds, lossGraph, type ObjectiveShape } from "../../src/train/causal-lm.ts";
import { taskLossGraph } from "../../src/train/task-loss.ts";
import { batchOf, batchPrefixes, integers } from "./golden.ts";

type Tensors = ReadonlyMap<string, Tensor>;

export interface CaseTask {
  /** The loss graph for batches such as these. */
  loss(shape: ObjectiveShape, batches: readonly AnyBatch[]): Graph;
  /** The batch behind a prefix of the io file. */
  batch(io: Tensors, prefix: string): AnyBatch;
  /** What the forward pass reads of it. */
  feeds(io: Tensors, prefix: string): Record<string, Tensor>;
  /** Of an output, ours or the golden one, the numbers that are defined. */
  defined(output: Tensor, io: Tensors, prefix: string): Float32Array;
}

export function caseTask({ config }: AnyBase): CaseTask {
  if (!("task" in config)) {
    return {
      loss: (shape, batches) => lossGraph(config, { ...shape, images: batches.some((batch) => "images" in batch) }),
      batch: (io, prefix) => batchOf(io, prefix, config),
      feeds: (io, prefix) => {
        const { lossRows: _, lossLabels: _labels, ...feeds } = batchFeeds(batchOf(io, prefix, config));
        return feeds;
      },
      // A padded query may have nothing to attend to, which no definition covers (Transformers mixes all values evenly there).
      defined: (output, io, prefix) => rowsWhere(batchOf(io, prefix, config).attentionMask, toFloat32(output), config.vocabSize),
    };
  }
  const isContrastive = config.task === "contrastive";
  const feeds = (io: Tensors, prefix: string) => inputsOf(io, prefix);
  return {
    loss: () => taskLossGraph(config),
    batch: (io, prefix) => {
      const labels = int32(io.get(`${prefix}labels`)!.shape, integers(io.get(`${prefix}labels`)!));
      const targets = labels.data.length;
      return { feeds: { ...feeds(io, prefix), ...(isContrastive ? {} : { labels }) }, targets, tokens: targets };
    },
    feeds,
    defined: (output) => toFloat32(output),
  };
}

/** Transformers' names of inputs as ours. */
const inputNames: Record<string, string> = {
  input_ids: "inputIds",
  attention_mask: "attentionMask",
  token_type_ids: "tokenTypeIds",
  pixel_values: "pixelValues",
};

function inputsOf(io: Tensors, prefix: string): Record<string, Tensor> {
  const given = Object.entries(inputNames).flatMap(([theirs, ours]): [string, Tensor][] => {
    const tensor = io.get(prefix + theirs);
    if (!tensor) return [];
    return [[ours, theirs === "pixel_values" ? float32(tensor.shape, toFloat32(tensor)) : int32(tensor.shape, integers(tensor))]];
  });
  const feeds = Object.fromEntries(given);
  const tokens = feeds["inputIds"];
  if (tokens) feeds["attentionMask"] ??= int32(tokens.shape, new Int32Array(tokens.data.length).fill(1));
  return feeds;
}

/** The name that the graph gives to an output: imageEmbeds for image_embeds. */
export const outputName = (theirs: string): string => theirs.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** The batches of an io file that have labels. */
export const labelled = (io: Tensors): string[] => batchPrefixes(io).filter((prefix) => io.has(`${prefix}labels`));

/** The rows of [rows, width] whose flag is 1. */
function rowsWhere(flags: Int32Array, data: Float32Array, width: number): Float32Array {
  const rows = [...flags.keys()].filter((row) => flags[row] === 1);
  const kept = new Float32Array(rows.length * width);
  for (const [at, row] of rows.entries()) kept.set(data.subarray(row * width, (row + 1) * width), at * width);
  return kept;
}
