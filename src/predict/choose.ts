// Which task of a base serves a prediction; bases without one are refused with what serves them.
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import { useOf } from "../models/registry.ts";
import { baseFor, chooseTask, possibleTasks, type TaskName, taskNames, taskOf } from "../tasks/index.ts";
import type { PredictorOptions } from "./types.ts";

const messages = {
  classify: "the model does not classify",
  embed: "the model gives no vectors to compare",
};
type Use = keyof typeof messages;

const serves = (use: Use, name: TaskName): boolean => taskOf(name).prediction[use] !== undefined;

/**
 * The base under the head of the task that serves `use`: the one that is given, or of its adapter, or its own; or one whose head it
 * has. Fails with `predict/task` where there is none.
 */
export function baseForUse(base: AnyBase, use: Use, { task, adapter }: PredictorOptions): { name: TaskName; base: AnyBase } {
  const chosen = chooseTask("predict/task", base.config, task, adapter);
  const candidates = [chosen, ...(task ? [] : possibleTasks(base.config))].filter((name) => serves(use, name));
  for (const name of candidates) {
    const own = baseFor(base, name);
    if (name === chosen || own.config.uninitializedHead === null) return { name, base: own };
  }
  const others = taskNames.filter((one) => serves(use, one));
  const own = `As it is, it is for ${useOf(base.config)}.`;
  throw new LowrankError("predict/task", messages[use], {
    subject: base.checkpoint.folder,
    expected: `a model for ${others.map((one) => taskOf(one).what).join(", ")}`,
    got: `${base.config.modelType}, a model for ${taskOf(chosen).what}`,
    next:
      candidates.length > 0
        ? `Train it to (lowrank train --task ${candidates[0]}), and give the adapter with --adapter. ${own}`
        : own,
  });
}
