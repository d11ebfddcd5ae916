// Preferences: of two answers to a prompt the chosen one is made more probable than the rejected one, against the model as it was (DPO).
import { z } from "zod";
import { option } from "../../options.ts";
import { figureColumns, meanLoss } from "../common/measures.ts";
import type { Measure, Score, Task } from "../task.ts";
import { preferenceData, prepareReference } from "./data.ts";
import { lossOptions, preferenceLoss } from "./loss.ts";
import { preferencePreview } from "./preview.ts";

/** Means over all pairs. A reward is β times the log-probability of an answer above the reference's. */
export interface PreferenceScore extends Score {
  /** The share of pairs whose chosen answer has the higher reward. */
  accuracy: number;
  /** The reward of the chosen answer minus that of the rejected one. */
  margin: number;
  chosenReward: number;
  rejectedReward: number;
  /** Log-probabilities of whole answers, in nats. */
  chosenLogp: number;
  rejectedLogp: number;
}

function measure(): Measure<PreferenceScore> {
  const mean = meanLoss();
  const sums = { accuracy: 0, margin: 0, chosenReward: 0, rejectedReward: 0, chosenLogp: 0, rejectedLogp: 0 };
  let count = 0;
  return {
    add({ batch, results }) {
      mean.add({ batch, results });
      const pairs = batch.targets;
      const of = (name: string, row: number): number => Number(results[name]!.data[row]);
      for (let pair = 0; pair < pairs; pair++) {
        const [chosen, rejected] = [of("rewards", pair), of("rewards", pairs + pair)];
        sums.accuracy += chosen > rejected ? 1 : 0;
        sums.margin += chosen - rejected;
        sums.chosenReward += chosen;
        sums.rejectedReward += rejected;
        sums.chosenLogp += of("logps", pair);
        sums.rejectedLogp += of("logps", pairs + pair);
      }
      count += pairs;
    },
    score() {
      const means = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / count]));
      return { loss: mean.loss(), ...(means as typeof sums) };
    },
  };
}

const options = {
  ...lossOptions,
  chosenColumn: option(z.string().optional(), { value: "NAME", help: "preferences: the column of chosen answers" }),
  rejectedColumn: option(z.string().optional(), { value: "NAME", help: "preferences: the column of rejected answers" }),
};

export const preference: Task<PreferenceScore> & { options: typeof options } = {
  what: "continuing texts, trained on preferences",
  head: "lm",
  pipeline: "text-generation",
  peft: { taskType: "CAUSAL_LM" },
  columns: ["promptColumn", "chosenColumn", "rejectedColumn"],
  takes: ["samples"],
  options,
  unit: "tokens",
  evalBatchSize: 4,
  fullBatch: (pairs, width) => ({ rows: 2 * pairs, width, targets: 2 * pairs * Math.max(1, width - 1) }),
  data: preferenceData,
  prepare: prepareReference,
  loss: preferenceLoss,
  measure,
  figures: ({ loss: _, ...means }) => means,
  scores: {
    columns: [
      ...figureColumns<PreferenceScore>({
        loss: "loss",
        accuracy: "accuracy",
        margin: "margin",
        "chosen reward": "chosenReward",
        "rejected reward": "rejectedReward",
      }),
      ["chosen log p", ({ chosenLogp }) => chosenLogp.toFixed(2)],
      ["rejected log p", ({ rejectedLogp }) => rejectedLogp.toFixed(2)],
    ],
  },
  preview: preferencePreview,
  prediction: {},
};
