// The loss graph of a model's own task, and the loss that an objective evaluates.
import type { Batch } from "../../src/data/types.ts";
import type { Graph } from "../../src/graph/graph.ts";
import type { ModelConfig } from "../../src/models/registry.ts";
import { ownTask, taskOf } from "../../src/tasks/index.ts";
import type { Objective } from "../../src/train/objective.ts";

export const ownLoss = (config: ModelConfig): Graph => taskOf(ownTask(config)).loss(config, { maxTargets: 1, maxLength: 1 }, {});

/** Σ of the batch's losses, without dropout. */
export async function lossOf(objective: Pick<Objective, "evaluate">, batch: Batch, theta: Float32Array): Promise<number> {
  const { loss } = await objective.evaluate(batch, theta);
  return Number(loss!.data[0]);
}
