// Classes for texts and images: by a classifier's head, or by the texts nearest to an image (zero-shot).
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import { taskQueue } from "../runtime/machine.ts";
import { taskOf } from "../tasks/index.ts";
import type { Classifying } from "../tasks/task.ts";
import { asImage, asText, imageRunner, textRunner } from "./inputs.ts";
import { baseForUse, openTaskModel, type TaskModel } from "./task-model.ts";
import type { Classifier, ClassifyOptions, PredictorOptions, Scorer } from "./types.ts";
import { zeroShotScorer } from "./zero-shot.ts";

/** The logits of a classifier's head. */
function headScorer({ reads, encode }: Classifying, base: AnyBase, model: TaskModel, options: PredictorOptions): Scorer {
  const [texts, images] = [textRunner(base, model, encode), imageRunner(base, model, options)];
  return {
    async score(inputs, given) {
      const { labels } = model.config();
      checkOwn(labels, given);
      const found = reads === "text" ? await texts("logits", inputs.map(asText)) : await images("logits", inputs.map(asImage));
      return { labels, ...found };
    },
  };
}

/**
 * Opens a model for classification: a classifier of texts or images, or a model that compares both. Fails with `predict/task` for
 * another, and as `openTaskModel` does.
 */
export async function openClassifier(base: AnyBase, options: PredictorOptions): Promise<Classifier> {
  const { name, base: headed } = baseForUse(base, "classify", options);
  const model = await openTaskModel(headed, options);
  const { classify, embed, zeroShot } = taskOf(name).prediction;
  const { reads, read } = classify!;
  const scorer = zeroShot ? zeroShotScorer(embed!, headed, model, options) : headScorer(classify!, headed, model, options);
  const next = taskQueue();
  return {
    task: name,
    reads,
    labels: () => (zeroShot ? [] : model.config().labels),
    classify: (inputs, given = {}) =>
      next(async () => {
        checkTop(given.top);
        const { labels, rows, cut, encoded } = await scorer.score(inputs, given);
        return rows.map((logits, i) => {
          const { scores, ...rest } = read(logits, labels, encoded?.[i]);
          return { ...rest, scores: scores.slice(0, given.top), cut: cut[i]! };
        });
      }),
    useAdapter: (adapter) =>
      next(async () => {
        await model.useAdapter(adapter);
        scorer.forget?.();
      }),
    close: () =>
      next(async () => {
        await scorer.close?.();
        await model.close();
      }),
  };
}

/** Refuses labels for a model that has its own. */
function checkOwn(labels: readonly string[], given: ClassifyOptions): void {
  const name = (["labels", "template"] as const).find((option) => given[option] !== undefined);
  if (name === undefined) return;
  throw new LowrankError("predict/labels", "the model has its own classes", {
    subject: name,
    expected: `no ${name}: this model predicts ${labels.slice(0, 5).join(", ")}${labels.length > 5 ? ", …" : ""}`,
    got: String(given[name]),
    next: `Leave out ${name}, or use a model that compares images and texts (clip).`,
  });
}

function checkTop(top: number | undefined): void {
  if (top === undefined || (Number.isSafeInteger(top) && top > 0)) return;
  throw new LowrankError("predict/option", "top is not a number of classes", {
    subject: "top",
    expected: "1 or more",
    got: String(top),
    next: "Correct it, or leave it out for all classes.",
  });
}
