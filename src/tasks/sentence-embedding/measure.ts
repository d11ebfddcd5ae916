// How well embeddings find what belongs together (recall@k), and how their cosines go with given scores (Pearson, Spearman).
import { textsIn } from "../../data/store.ts";
import { grouped } from "../../units.ts";
import { comparedRows, figureColumns, meanLoss, pearson, spearman } from "../common/measures.ts";
import { checkFinite, type Recall, recall, recallTable, vectorOf, vectors, withProducts } from "../common/retrieval.ts";
import type { Measure, Measuring, Score, ScoreTable } from "../task.ts";

export interface EmbeddingScore extends Score {
  /** Records. */
  pairs: number;
  /** Different positives, among which each anchor looks for its own. */
  candidates: number;
  /** Shares of the anchors with one of their positives among the k nearest; null where records have scores. */
  recall: Recall | null;
  /** Correlations of cosines and scores, of the numbers and of their ranks; null where records have none, or all are equal. */
  pearson: number | null;
  spearman: number | null;
}

/** Vectors of texts; equal texts are one. */
function textVectors() {
  const places = new Map<string, number>();
  const kept: Float32Array[] = [];
  return {
    kept,
    /** The place of a text. */
    add(ids: Int32Array, vector: Float32Array): number {
      const key = ids.join();
      const place = places.get(key) ?? kept.length;
      if (place === kept.length) {
        places.set(key, place);
        kept.push(vector);
      }
      return place;
    },
  };
}

export function embeddingMeasure({ examples, engine }: Measuring): Measure<EmbeddingScore> {
  const mean = meanLoss();
  const [anchors, positives] = [textVectors(), textVectors()];
  /** The positives of each anchor, by their places. */
  const ownOf: number[][] = [];
  const cosines: number[] = [];
  const scores: number[] = [];
  let pairs = 0;
  return {
    async add(ran) {
      mean.add(ran);
      const { anchorEmbedding, positiveEmbedding } = ran.results;
      for (const [row, example] of (await examples.read(ran.rows)).entries()) {
        pairs++;
        const [anchor, positive] = [vectorOf(anchorEmbedding!, row), vectorOf(positiveEmbedding!, row)];
        if (example.value !== undefined) {
          scores.push(example.value);
          cosines.push(anchor.reduce((sum, value, i) => sum + value * positive[i]!, 0));
          continue;
        }
        const [first, second] = textsIn(example);
        const place = anchors.add(first!, anchor);
        ownOf[place] ??= [];
        ownOf[place].push(positives.add(second!, positive));
      }
    },
    async score() {
      const isScored = scores.length > 0;
      return {
        loss: mean.loss(),
        pairs,
        candidates: positives.kept.length,
        recall: anchors.kept.length > 0 ? await recallOf() : null,
        pearson: isScored ? pearson(cosines, scores) : null,
        spearman: isScored ? spearman(cosines, scores) : null,
      };
    },
  };

  async function recallOf(): Promise<Recall> {
    const width = anchors.kept[0]!.length;
    const [queries, found] = [vectors(anchors.kept, width), vectors(positives.kept, width)];
    checkFinite(queries, "anchors");
    checkFinite(found, "positives");
    return withProducts(engine, (products) => recall(products, queries, found, (anchor) => ownOf[anchor]!));
  }
}

/** The figures of an evaluation during training. */
export function figures({ recall: found, spearman }: EmbeddingScore): Record<string, number> {
  return { ...(found && { "recall@1": found[1] }), ...(spearman !== null && { spearman }) };
}

export const embeddingScores: ScoreTable<EmbeddingScore> = {
  columns: figureColumns({ loss: "loss" }),
  details({ batchSize, ...sides }) {
    const { pairs, candidates, recall: found } = (sides.adapter ?? sides.base)!;
    if (!found) {
      return [
        `The loss is the mean squared difference of cosine and score, of ${grouped(pairs)} pairs.`,
        [
          ["", "Spearman", "Pearson"],
          ...comparedRows(sides, ({ spearman, pearson }) => [spearman, pearson].map((value) => value?.toFixed(4) ?? "—")),
        ],
      ];
    }
    return [
      `The loss is that of pairs among ${batchSize} (--batch-size); it grows with their number.`,
      `anchors that find their positive, of ${grouped(pairs)} pairs, among ${grouped(candidates)} positives`,
      recallTable(sides, (score) => score.recall!),
    ];
  },
};
