// Language modelling: texts, prompts with completions and conversations are continued, by cross-entropy of the next token.
import type { DecoderConfig } from "../../models/config/config.ts";
import { lossGraph } from "../common/losses.ts";
import { figureColumns, meanLoss } from "../common/measures.ts";
import type { Score, Task } from "../task.ts";
import { languageData } from "./data.ts";
import { textPreview } from "./preview.ts";

/** Mean over all targets, in nats a token, and e to its power. */
export interface LanguageScore extends Score {
  perplexity: number;
}

export const causalLm: Task<LanguageScore> = {
  what: "continuing texts",
  head: "lm",
  pipeline: "text-generation",
  peft: { taskType: "CAUSAL_LM" },
  columns: ["promptColumn", "completionColumn", "textColumn"],
  takes: ["packing", "samples", "trainOn"],
  unit: "tokens",
  evalBatchSize: 4,
  data: languageData,
  loss: (config, shape) => lossGraph(config as unknown as DecoderConfig, shape),
  measure() {
    const mean = meanLoss();
    return { add: mean.add, score: () => ({ loss: mean.loss(), perplexity: Math.exp(mean.loss()) }) };
  },
  figures: ({ perplexity }) => ({ perplexity }),
  scores: { columns: figureColumns({ loss: "loss", perplexity: "perplexity" }) },
  preview: textPreview,
  prediction: {},
};
