// Classes and their probabilities for texts and images: by a classifier's head, or by the texts nearest to an image (zero-shot).
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import type { Task } from "../models/task.ts";
import { asImage, asText, imageRunner, textRunner } from "./inputs.ts";
import { inTurn } from "./queue.ts";
import { openTaskModel, type TaskModel } from "./task-model.ts";
import { taskBase } from "./tasks.ts";
import type { Classifier, ClassifierInput, ClassifyOptions, LabelScore, Outputs, PredictorOptions, Scorer } from "./types.ts";
import { zeroShotScorer } from "./zero-shot.ts";

const scorers: Record<Task, (base: AnyBase, model: TaskModel, options: PredictorOptions) => Scorer> = {
  "sequence-classification": (base, model) => {
    const run = textRunner(base, model);
    return headScorer(model, (inputs) => run("logits", inputs.map(asText)));
  },
  "image-classification": (base, model, options) => {
    const run = imageRunner(base, model, options);
    return headScorer(model, (inputs) => run("logits", inputs.map(asImage)));
  },
  contrastive: zeroShotScorer,
};

/** The logits of a classifier's head. */
function headScorer(model: TaskModel, run: (inputs: readonly ClassifierInput[]) => Promise<Outputs>): Scorer {
  return {
    async score(inputs, options) {
      const { labels } = model.config();
      checkOwn(labels, options);
      return { labels, ...(await run(inputs)) };
    },
    forget() {},
    async close() {},
  };
}

/**
 * Opens a model for classification: a classifier of texts or images, or a model that compares both. Fails with `predict/task` for
 * a language model, and as `openTaskModel` does.
 */
export async function openClassifier(base: AnyBase, options: PredictorOptions): Promise<Classifier> {
  const opened = taskBase(base, "classify");
  const { task } = opened.config;
  const model = await openTaskModel(opened, options);
  const scorer = scorers[task](opened, model, options);
  const next = inTurn();
  return {
    task,
    labels: () => model.config().labels,
    classify: (inputs, given = {}) =>
      next(async () => {
        checkTop(given.top);
        const { labels, data, width, cut } = await scorer.score(inputs, given);
        return inputs.map((_, row) => ({
          scores: likeliest(labels, data.subarray(row * width, (row + 1) * width), given.top),
          cut: cut[row]!,
        }));
      }),
    useAdapter: (adapter) =>
      next(async () => {
        await model.useAdapter(adapter);
        scorer.forget();
      }),
    close: () =>
      next(async () => {
        await scorer.close();
        await model.close();
      }),
  };
}

/** The `top` likeliest of the classes by their logits, with softmax's probabilities. */
function likeliest(labels: readonly string[], logits: Float32Array, top = labels.length): LabelScore[] {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  if (!Number.isFinite(sum)) throw notFinite(logits);
  const order = labels.map((_, i) => i).sort((a, b) => logits[b]! - logits[a]! || a - b);
  return order.slice(0, top).map((i) => ({ label: labels[i]!, probability: powers[i]! / sum }));
}

/** Refuses labels for a model that has its own. */
function checkOwn(labels: readonly string[], given: ClassifyOptions): void {
  const name = (["labels", "template"] as const).find((option) => given[option] !== undefined);
  if (name === undefined) return;
  throw new LowrankError("predict/labels", "the model has its own classes", {
    subject: name,
    expected: `no ${name}: this model tells ${labels.slice(0, 5).join(", ")}${labels.length > 5 ? ", …" : ""}`,
    got: String(given[name]),
    next: `Leave out ${name}, or use a model that compares images and texts (clip).`,
  });
}

function checkTop(top: number | undefined): void {
  if (top === undefined || (Number.isSafeInteger(top) && top > 0)) return;
  throw new LowrankError("predict/option", "top is no number of classes", {
    subject: "top",
    expected: "1 or more",
    got: String(top),
    next: "Correct it, or leave it out for all classes.",
  });
}

const notFinite = (logits: Float32Array): LowrankError =>
  new LowrankError("predict/not-finite", "the model gives scores that are no numbers", {
    expected: "finite numbers",
    got: [...logits.subarray(0, 8)].join(", "),
    next: "The weights of the model or of the adapter are damaged, or training diverged; use an earlier checkpoint.",
    exitCode: 1,
  });
