// The losses of other tasks than language modelling: what the graph of training computes from a batch of rows.
import type { Graph, Value } from "../graph/graph.ts";
import { add, mul } from "../graph/ops/elementwise.ts";
import { input, iota, scalar } from "../graph/ops/leaves.ts";
import { crossEntropy } from "../graph/ops/loss.ts";
import { type ModelConfig, taskForward } from "../models/registry.ts";
import type { Task, TaskConfig } from "../models/task.ts";
import { lossGraph, type ObjectiveShape } from "./causal-lm.ts";
import { fullEntries } from "./training-graph.ts";
import type { ThetaEntry } from "./types.ts";

/** The loss that a model is trained by, whatever its task. */
export const lossOf = (config: ModelConfig, shape: ObjectiveShape): Graph =>
  "task" in config ? taskLossGraph(config) : lossGraph(config, shape);

/** The tensors of θ for full fine-tuning: every weight that the loss of the model reads, of tokens alone or of `images` too. */
export const lossEntries = (config: ModelConfig, images: boolean): ThetaEntry[] =>
  fullEntries(lossOf(config, { maxTargets: 1, maxLength: 1, images }));

/**
 * Σ of the losses of a batch's rows, from the inputs of the family and, for a classifier, `labels`, int32 [batch]; and beside it
 * what a batch is measured by (`answers`). A contrastive model learns to tell which text of the batch belongs to which image, and
 * which image to which text.
 */
export function taskLossGraph(config: TaskConfig): Graph {
  const outputs = taskForward(config);
  const beside = Object.fromEntries(answers[config.task].map((name) => [name, outputs[name]!]));
  if (config.task !== "contrastive") {
    return { outputs: { loss: crossEntropy(outputs["logits"]!, input("labels", "int32", ["batch"])), ...beside } };
  }
  const own = iota("batch"); // row i belongs to column i
  const both = (["logitsPerText", "logitsPerImage"] as const).map((name): Value => crossEntropy(outputs[name]!, own));
  return { outputs: { loss: mul(add(both[0]!, both[1]!), scalar(0.5, both[0]!)), ...beside } };
}

/** The outputs that right answers are found in. */
const answers: Record<Task, readonly string[]> = {
  "sequence-classification": ["logits"],
  "image-classification": ["logits"],
  contrastive: ["imageEmbeds", "textEmbeds"],
};
