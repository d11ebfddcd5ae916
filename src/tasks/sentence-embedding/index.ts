// Sentence embeddings: unit vectors of texts whose cosine says how near they are in meaning. As sentence-transformers trains them.
import { z } from "zod";
import { type Pooling, poolings } from "../../models/heads/head.ts";
import { option } from "../../options.ts";
import { recordData, recordTask } from "../common/record-data.ts";
import type { Task } from "../task.ts";
import { embeddingLoss, SCALE } from "./loss.ts";
import { type EmbeddingScore, embeddingMeasure, embeddingScores, figures } from "./measure.ts";
import { pairPreview } from "./preview.ts";
import { textPairs } from "./records.ts";

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
  loss: (config, _, { scale }) => embeddingLoss(config, scale as number | undefined),
  measure: embeddingMeasure,
  figures,
  scores: embeddingScores,
  preview: pairPreview,
  prediction: { embed: { text: "embedding" } },
};
