// Sentence embeddings: unit vectors of texts whose cosine says how near they are in meaning. As sentence-transformers trains them.

import { z } from "zod";
import type { Graph } from "../../graph/graph.ts";
import { add, mul, sub } from "../../graph/ops/elementwise.ts";
import { gatherRows } from "../../graph/ops/indexing.ts";
import { input, iota, scalar } from "../../graph/ops/leaves.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { crossEntropy } from "../../graph/ops/loss.ts";
import { reduceSum } from "../../graph/ops/reduction.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type Pooling, poolings } from "../../models/heads/head.ts";
import { type ModelConfig, modelOutputs } from "../../models/registry.ts";
import { option } from "../../options.ts";
import { amongAll } from "../common/meeting.ts";
import { recordData, recordTask } from "../common/record-data.ts";
import type { Task } from "../task.ts";
import { type EmbeddingScore, embeddingMeasure, embeddingScores, figures } from "./measure.ts";
import { pairPreview } from "./preview.ts";
import { textPairs } from "./records.ts";

/** What cosines are multiplied by before the softmax: one over the temperature. */
const SCALE = 20;

/**
 * Which positive of a batch is an anchor's own (sentence-transformers' MultipleNegativesRankingLoss), or how far cosines are from given scores
 * (its CosineSimilarityLoss). Of texts, int32 `anchorRows` [targets] and `candidateRows` [candidates] pick rows: candidate i is the positive of anchor i, those
 * behind are negatives of all. The loss is Σ -log softmax(scale · cosines)[i]; where the float `isScored` is 1 and not 0, it is
 * Σ (cosine - similarity)² with the float32 `similarities` [targets]. Beside it anchorEmbedding and positiveEmbedding
 * [targets, hidden], and scores [targets, candidates].
 */
function embeddingLoss(config: ModelConfig, meets = false, scale = SCALE): Graph {
  const { embedding } = modelOutputs(config); // [texts, hidden]
  const anchorEmbedding = gatherRows(embedding!, input("anchorRows", "int32", ["targets"]));
  const candidateEmbedding = gatherRows(embedding!, input("candidateRows", "int32", ["candidates"]));
  const positiveEmbedding = gatherRows(candidateEmbedding, iota("targets"));
  const anchors = meets ? amongAll(anchorEmbedding, "anchorEmbedding") : anchorEmbedding;
  const candidates = meets ? amongAll(candidateEmbedding, "candidateEmbedding") : candidateEmbedding;
  const targets = anchors.shape[0]!;
  const positives = meets ? gatherRows(candidates, iota(targets)) : positiveEmbedding;
  const cosines = gemm(anchors, candidates, { transB: true }); // [targets, candidates]
  const scores = mul(cosines, scalar(scale, cosines));
  const ranking = crossEntropy(scores, iota(targets));
  const similarities = reshape(input("similarities", "float32", [targets]), [targets, 1]);
  const apart = sub(reduceSum(mul(anchors, positives), [1]), similarities); // [targets, 1]
  const distance = reshape(reduceSum(mul(apart, apart), [0]), []);
  const isScored = input("isScored", "float32", []);
  const loss = add(mul(ranking, sub(scalar(1, ranking), isScored)), mul(distance, isScored));
  return { outputs: { loss, anchorEmbedding, positiveEmbedding, scores, ...(meets && { candidateEmbedding }) } };
}

const column = (help: string) => option(z.string().optional(), { value: "NAME", help: `sentence embeddings: ${help}` });

const options = {
  pooling: option(z.enum(poolings).optional(), {
    help: "sentence embeddings: how token states are pooled into a vector (as in modules.json; else mean, of decoders last)",
  }),
  scale: option(z.number().positive().optional(), {
    value: "X",
    help: `sentence embeddings: the factor of cosines in the loss (${SCALE})`,
  }),
  anchorColumn: column("the column or key of first texts, such as questions"),
  positiveColumn: column("that of texts which belong to them"),
  negativeColumn: column("that of texts which do not"),
  scoreColumn: column("that of similarities, from -1 to 1"),
};

export const sentenceEmbedding: Task<EmbeddingScore> & { options: typeof options } = {
  ...recordTask,
  what: "sentence embeddings",
  head: "embedding",
  pipeline: "sentence-similarity",
  peft: { taskType: "FEATURE_EXTRACTION" },
  columns: ["anchorColumn", "positiveColumn", "negativeColumn", "scoreColumn"],
  options,
  chooses: ({ pooling, maxLength }) => ({
    ...(pooling !== undefined && { pooling: pooling as Pooling }),
    ...(maxLength !== undefined && { maxTokens: maxLength as number }),
  }),
  // The loss of a pair among itself is 0, whatever θ is.
  fewestRows: 2,
  fullBatch: (examples, width) => ({
    rows: 2 * examples,
    width,
    targets: examples,
    lengths: { candidates: examples },
  }),
  data: recordData(textPairs),
  meeting: { outputs: ["anchorEmbedding", "candidateEmbedding"], feeds: ["similarities"] },
  loss: (config, { meets }, { scale }) => embeddingLoss(config, meets, scale as number | undefined),
  measure: embeddingMeasure,
  figures,
  scores: embeddingScores,
  preview: pairPreview,
  prediction: { embed: { text: "embedding" } },
};
