// What is measured of each task while its batches run: losses, right answers, who finds whom.
import type { Examples } from "../../data/store.ts";
import type { AnyBatch, FeedBatch } from "../../data/types.ts";
import type { Task } from "../../models/task.ts";
import type { Platform } from "../../platform/platform.ts";
import { type ClassificationMeasures, classificationMeasures, predictedClasses } from "../../predict/measures.ts";
import { type RetrievalMeasures, retrievalMeasures } from "../../predict/retrieval.ts";
import { openProducts, vectors } from "../../predict/similarity.ts";
import type { Tensor } from "../../tensor.ts";
import { targetsOf } from "../../train/batches.ts";

/** Mean over all targets, in nats a token, and e to its power. */
export interface Score {
  loss: number;
  perplexity: number;
}

/** The mean cross-entropy of the examples in nats, and how they were classified. */
export interface ClassifierScore extends ClassificationMeasures {
  loss: number;
}

/** The mean contrastive loss of the pairs, each among those of its batch, and who finds whom among all. */
export interface ContrastiveScore extends RetrievalMeasures {
  loss: number;
}

/** A batch that was run: its rows by their numbers, and the outputs of the loss graph. */
interface Ran {
  batch: AnyBatch;
  rows: readonly number[];
  results: Record<string, Tensor>;
}

export interface Measure<S = Score | ClassifierScore | ContrastiveScore> {
  add(ran: Ran): void | Promise<void>;
  /** What was measured of all batches. */
  score(): S | Promise<S>;
}

interface Measuring extends Pick<Platform, "openSession"> {
  examples: Examples;
  /** Of a classifier, in the order of its logits. */
  labels: readonly string[];
  threads?: number;
}

/** What each task measures. */
export const measures: Record<Task | "causal-lm", (how: Measuring) => Measure> = {
  "causal-lm": () => {
    const mean = meanLoss();
    return { add: mean.add, score: () => ({ loss: mean.loss(), perplexity: Math.exp(mean.loss()) }) };
  },
  "sequence-classification": ofClassifier,
  "image-classification": ofClassifier,
  contrastive: ofContrastive,
};

function meanLoss() {
  let [sum, targets] = [0, 0];
  return {
    add({ batch, results }: Ran): void {
      sum += Number(results["loss"]!.data[0]);
      targets += targetsOf(batch);
    },
    loss: () => sum / targets,
  };
}

function ofClassifier({ labels }: Measuring): Measure<ClassifierScore> {
  const mean = meanLoss();
  const [expected, predicted]: [number[], number[]] = [[], []];
  return {
    add(ran) {
      mean.add(ran);
      expected.push(...Array.from((ran.batch as FeedBatch).feeds["labels"]!.data, Number));
      predicted.push(...predictedClasses(ran.results["logits"]!));
    },
    score: () => ({ loss: mean.loss(), ...classificationMeasures(expected, predicted, labels) }),
  };
}

/** Images count once, however many texts they have. */
function ofContrastive({ examples, openSession, threads }: Measuring): Measure<ContrastiveScore> {
  const mean = meanLoss();
  const images = new Map<number, Float32Array>();
  const texts = new Array<Float32Array>(examples.length);
  const imageOf = new Int32Array(examples.length);
  const rowOf = ({ data, shape }: Tensor, row: number) => (data as Float32Array).slice(row * shape[1]!, (row + 1) * shape[1]!);
  return {
    async add(ran) {
      mean.add(ran);
      const { imageEmbeds, textEmbeds } = ran.results;
      for (const [row, { images: [image] = [] }] of (await examples.read(ran.rows)).entries()) {
        const number = ran.rows[row]!;
        texts[number] = rowOf(textEmbeds!, row);
        imageOf[number] = image!;
        if (!images.has(image!)) images.set(image!, rowOf(imageEmbeds!, row));
      }
    },
    async score() {
      const order = [...images.keys()].sort((a, b) => a - b);
      const places = new Map(order.map((image, place) => [image, place]));
      const width = texts[0]!.length;
      const products = await openProducts(openSession, threads);
      try {
        const found = await retrievalMeasures(
          products,
          vectors(
            order.map((image) => images.get(image)!),
            width,
          ),
          vectors(texts, width),
          imageOf.map((image) => places.get(image)!),
        );
        return { loss: mean.loss(), ...found };
      } finally {
        await products.close();
      }
    },
  };
}
