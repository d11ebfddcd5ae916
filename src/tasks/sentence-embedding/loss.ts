// The losses of sentence embeddings: which positive of a batch is an anchor's own (sentence-transformers' MultipleNegativesRankingLoss),
// and how far cosines are from given scores (its CosineSimilarityLoss).
import type { Graph } from "../../graph/graph.ts";
import { add, mul, sub } from "../../graph/ops/elementwise.ts";
import { gatherRows } from "../../graph/ops/indexing.ts";
import { input, iota, scalar } from "../../graph/ops/leaves.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { crossEntropy } from "../../graph/ops/loss.ts";
import { reduceSum } from "../../graph/ops/reduction.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type ModelConfig, modelOutputs } from "../../models/registry.ts";

/** What cosines are multiplied by before the softmax: one over the temperature. */
export const SCALE = 20;

/**
 * Of texts, int32 `anchorRows` [targets] and `candidateRows` [candidates] pick rows: candidate i is the positive of anchor i, those
 * behind are negatives of all. The loss is Σ -log softmax(scale · cosines)[i]; where the float `isScored` is 1 and not 0, it is
 * Σ (cosine - similarity)² with the float32 `similarities` [targets]. Beside it anchorEmbedding and positiveEmbedding
 * [targets, hidden], and scores [targets, candidates].
 */
export function embeddingLoss(config: ModelConfig, scale = SCALE): Graph {
  const { embedding } = modelOutputs(config); // [texts, hidden]
  const anchors = gatherRows(embedding!, input("anchorRows", "int32", ["targets"]));
  const candidates = gatherRows(embedding!, input("candidateRows", "int32", ["candidates"]));
  const positives = gatherRows(candidates, iota("targets"));
  const cosines = gemm(anchors, candidates, { transB: true }); // [targets, candidates]
  const scores = mul(cosines, scalar(scale, cosines));
  const ranking = crossEntropy(scores, iota("targets"));
  const similarities = reshape(input("similarities", "float32", ["targets"]), ["targets", 1]);
  const apart = sub(reduceSum(mul(anchors, positives), [1]), similarities); // [targets, 1]
  const distance = reshape(reduceSum(mul(apart, apart), [0]), []);
  const isScored = input("isScored", "float32", []);
  const loss = add(mul(ranking, sub(scalar(1, ranking), isScored)), mul(distance, isScored));
  return { outputs: { loss, anchorEmbedding: anchors, positiveEmbedding: positives, scores } };
}
