// Which models serve which prediction; others are refused with what serves them.
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import { taskOf } from "../models/registry.ts";
import { type Task, type TaskConfig, taskText } from "../models/task.ts";

/** What can be asked of models, and the tasks that have it. */
const uses: Record<"classify" | "embed", { wants: string; tasks: readonly Task[] }> = {
  classify: {
    wants: "a classifier of texts or images, or a model that compares both",
    tasks: ["sequence-classification", "image-classification", "contrastive"],
  },
  embed: { wants: "a model that compares images and texts (clip)", tasks: ["contrastive"] },
};

/** `base` as one that serves `use`; fails with `predict/task` that names what serves it otherwise. */
export function taskBase(base: AnyBase, use: keyof typeof uses): AnyBase & { config: TaskConfig } {
  const { config, checkpoint } = base;
  const { wants, tasks } = uses[use];
  if ("task" in config && tasks.includes(config.task)) return { ...base, config };
  const isTask = "task" in config;
  throw new LowrankError("predict/task", isTask ? "the model gives no vectors to compare" : "this is a language model", {
    subject: checkpoint.folder,
    expected: wants,
    got: `${config.modelType}, a model for ${taskText[taskOf(config)]}`,
    next: isTask ? "It classifies: lowrank classify, or openClassifier." : "It writes texts: lowrank generate, or openGenerator.",
  });
}
