// Models of other tasks than language modelling: what their configs tell, and what a family of them is.
import { z } from "zod";
import type { Value } from "../graph/graph.ts";
import { type DecoderConfig, unsupported } from "./config/config.ts";
import { count, MAX_LABELS, readJson, shown } from "./config/schema.ts";

export type Task = "sequence-classification" | "image-classification" | "contrastive";

/** What a model of the task is for. */
export const taskText: Record<Task | "causal-lm", string> = {
  "causal-lm": "continuing texts",
  "sequence-classification": "sequence classification",
  "image-classification": "image classification",
  contrastive: "comparing images and texts",
};

/** The commands that predict with one. */
export const taskCommands: Record<Task, string> = {
  "sequence-classification": "lowrank classify",
  "image-classification": "lowrank classify",
  contrastive: "lowrank classify (with --labels) and lowrank embed",
};

/** What the rest of the library reads of such a model's hyperparameters; each family adds its own. */
export interface TaskConfig {
  /** `model_type`, by which registry.ts finds the family. */
  modelType: string;
  task: Task;
  /** The dtype the weights were saved in, where the config says it. */
  dtype: DecoderConfig["dtype"];
  /** The longest text that it reads, in tokens; of a model that reads images only, the tokens of an image. */
  maxPositions: number;
  /** Rows of its token embedding; 0 if it reads no text. */
  vocabSize: number;
  /** The classes of a classifier in the order of its logits; empty where there are none. */
  labels: string[];
  /** The module that a model of the config's own class lacks and that the task adds (a classifier on a model without one). */
  newHead: string | null;
}

/** A family of such models. `C` is what its config tells beyond what all do. */
export interface TaskFamily<C extends TaskConfig = TaskConfig> {
  /** The parsed JSON of a config.json, checked; `file` is what errors call it. */
  config(json: unknown, file: string): C;
  /**
   * What the model reads, by name; "batch" is the first axis of each. Texts: int32 inputIds, attentionMask (1 where a token
   * is), tokenTypeIds [batch, seq]; images: float32 pixelValues [batch, channels, height, width].
   */
  inputs(config: C): Record<string, Value>;
  /**
   * What it computes. A classifier: logits [batch, labels]. A contrastive model: imageEmbeds and textEmbeds [batch,
   * projection] of length 1, logitsPerImage and logitsPerText [batch, batch].
   */
  forward(config: C, inputs: Record<string, Value>): Record<string, Value>;
  /** Of a classifier, Transformers' class that has its head. */
  architecture?: string;
  /** What older releases of Transformers call a module or weight; the newest first. */
  olderNames?: readonly ((name: string) => string)[];
}

/** The module of a classifier. */
const HEAD = "classifier";

const keysOfClassifier = z.object({
  architectures: z.array(z.string()).nullish(),
  id2label: z.record(z.string(), z.string()).nullish(),
  num_labels: count(MAX_LABELS).nullish(),
  problem_type: z.string().nullish(),
});

/** What Transformers calls a class without a name. */
export const unnamedLabel = (index: number): string => `LABEL_${index}`;

/** The labels of a classifier, and whether the model that `json` describes has its head, the module `classifier`. */
export function classifierConfig(json: unknown, file: string, architecture: string): Pick<TaskConfig, "labels" | "newHead"> {
  const { architectures, id2label, num_labels, problem_type: problem } = readJson(keysOfClassifier, json, file);
  const length = id2label ? Object.keys(id2label).length : (num_labels ?? 2);
  if (length > MAX_LABELS || length < 2 || (problem != null && problem !== "single_label_classification")) {
    throw unsupported(file, problem ? "problem_type" : "id2label", "this kind of classifier is not supported", {
      expected: `one of 2 to ${MAX_LABELS} classes for each row (single_label_classification)`,
      got: problem ? shown(problem) : `${length} labels`,
    });
  }
  return {
    labels: Array.from({ length }, (_, i) => id2label?.[i] ?? unnamedLabel(i)),
    newHead: architectures?.includes(architecture) ? null : HEAD,
  };
}

/** `config` as the weights have it: with its own head if one of its classes is stored, with a new one if not. */
export function withStoredHead<C extends TaskConfig>(config: C, stored: ReadonlyMap<string, { shape: readonly number[] }>): C {
  if (config.labels.length === 0) return config;
  return { ...config, newHead: stored.get(`${HEAD}.weight`)?.shape[0] === config.labels.length ? null : HEAD };
}

/** The config of the same model with these classes: with its own head if they are its own, with a new one if not. */
export function withLabels<C extends TaskConfig>(config: C, labels: readonly string[]): C {
  const isOwn = labels.length === config.labels.length && labels.every((label, i) => label === config.labels[i]);
  return isOwn ? config : { ...config, labels: [...labels], newHead: HEAD };
}
