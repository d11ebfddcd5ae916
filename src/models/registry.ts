// What is asked of any family, by its `model_type`; families.ts and task-families.ts list them.
import { z } from "zod";
import { LowrankError, nearest } from "../errors.ts";
import type { Graph, Value } from "../graph/graph.ts";
import { nodesOf } from "../graph/graph.ts";
import { linear } from "../graph/ops/linear.ts";
import { capLogits } from "../graph/ops/loss.ts";
import { concat } from "../graph/ops/shape.ts";
import { type DecoderConfig, unsupported } from "./config/config.ts";
import { readJson, shown } from "./config/schema.ts";
import * as decoders from "./families/index.ts";
import type { Family, StoredIn } from "./family.ts";
import { placed, type Vision } from "./images.ts";
import { type DecoderInputs, type DecoderOutputs, decoderInputs, type Head } from "./layers/blocks.ts";
import type { ModuleInfo } from "./module.ts";
import { type Task, type TaskConfig, type TaskFamily, taskCommands, taskText } from "./task.ts";
import * as others from "./task-families.ts";

const families: Record<string, Family> = decoders;
const taskFamilies: Record<string, TaskFamily> = others;

/** The `model_type`s of language models. */
export const decoderTypes = Object.keys(families);
/** Those of language models that read images. */
export const imageTypes = decoderTypes.filter((name) => families[name]!.vision);
/** The `model_type`s that can be read. */
export const modelTypes = [...decoderTypes, ...Object.keys(taskFamilies)];

/** A language model's config, or one that names its `task`. */
export type ModelConfig = DecoderConfig | TaskConfig;

/** What a model is for. */
export const taskOf = (config: ModelConfig): Task | "causal-lm" => ("task" in config ? config.task : "causal-lm");

/** What refuses an option, with this code, because it is for models of another task than `config`'s. */
export const refuserOf =
  (code: string, config: ModelConfig) =>
  (subject: string, expected: string, got: string, next: string): never => {
    const facts = { subject, expected, got, next };
    throw new LowrankError(code, `${config.modelType} is a model for ${taskText[taskOf(config)]}`, facts);
  };

/** The module that the task adds to a model that lacks it; null if none. */
export const newHeadOf = (config: ModelConfig): string | null => ("task" in config ? config.newHead : null);

/**
 * The parsed JSON of a config.json. `file` is what errors call it. Fails on a model type that isn't built, and with the
 * errors of the family's reader.
 */
export function modelConfig(json: unknown, file = "config.json"): ModelConfig {
  const { model_type: modelType } = readJson(z.object({ model_type: z.string() }), json, file);
  if (Object.hasOwn(families, modelType)) return families[modelType]!.config(json, file);
  if (Object.hasOwn(taskFamilies, modelType)) return taskFamilies[modelType]!.config(json, file);
  throw unsupported(file, "model_type", `the model type ${shown(modelType)} is not supported`, {
    expected: modelTypes.join(", "),
    got: shown(modelType),
    next: `The nearest supported one is ${nearest(modelType.slice(0, 64), modelTypes, 1)[0]}. A new family is a file in src/models/families/ and a line in src/models/families/index.ts (docs/add-a-model.md).`,
  });
}

/** `config` if it is a language model's; fails with `model/unsupported` if not. */
export function asDecoder(config: ModelConfig, file: string): DecoderConfig {
  if (!("task" in config)) return config;
  throw unsupported(file, "model_type", `${config.modelType} is a model for ${taskText[config.task]}, not a language model`, {
    expected: decoderTypes.join(", "),
    got: shown(config.modelType),
    next: `It serves ${taskCommands[config.task]}; for this choose a language model.`,
  });
}

/** What a model of another task reads, by name. */
export const taskInputs = (config: TaskConfig): Record<string, Value> => taskFamilies[config.modelType]!.inputs(config);

/** What it computes from these, by name. */
export const taskForward = (config: TaskConfig): Record<string, Value> =>
  taskFamilies[config.modelType]!.forward(config, taskInputs(config));

/** Transformers' class of a classifier. */
export const architectureOf = ({ modelType }: TaskConfig): string => taskFamilies[modelType]!.architecture!;

/** What older releases of Transformers call a module or weight of the model, where they call it otherwise; the newest first. */
export function olderNames({ modelType }: ModelConfig, name: string): string[] {
  const styles = (families[modelType] ?? taskFamilies[modelType])?.olderNames ?? [];
  return [...new Set(styles.map((style) => style(name)))].filter((older) => older !== name);
}

/** The larger tensor that a checkpoint may store a weight of the model in. */
export const storedIn = ({ modelType }: ModelConfig, name: string): StoredIn | undefined => families[modelType]?.storedIn?.(name);

/** The forward pass of a language model. */
export const forward = (config: DecoderConfig, inputs: DecoderInputs): DecoderOutputs =>
  families[config.modelType]!.forward(config, inputs);

/** The family's vision side; undefined if it reads no images. */
export const visionOf = (config: DecoderConfig): Vision<DecoderConfig> | undefined => families[config.modelType]!.vision;

/** What a model reads of an image: its channels, height and width, and whether it takes no image in tiles; undefined if it reads none. */
export function pixelShape(config: ModelConfig): { size: number[]; isWhole: boolean } | undefined {
  const isTask = "task" in config;
  const { pixelValues } = (isTask ? taskInputs(config) : visionOf(config)?.pixels(config)) ?? {};
  return pixelValues && { size: pixelValues.shape.slice(-3) as number[], isWhole: isTask };
}

/** `forward` on tokens and on images from their pixels: the inputs of the family's vision side. */
export function forwardWithImages(config: DecoderConfig, inputs: DecoderInputs): DecoderOutputs {
  const vision = visionOf(config);
  if (!vision) return forward(config, inputs);
  const { features, unread: unseen = [] } = vision.encode(config, vision.pixels(config));
  const { unread = [], ...outputs } = forward(config, { ...inputs, images: placed(vision, features) });
  return { ...outputs, unread: [...unseen, ...unread] };
}

/** The logits of hidden states [n, hidden]: [n, vocab]. */
export function logitsOf(hidden: Value, { weight, path, softcap, added }: Head): Value {
  const first = linear(hidden, weight, path);
  const logits = added ? concat([first, linear(hidden, added.weight, added.path)], 1) : first;
  return softcap ? capLogits(logits, softcap) : logits;
}

/**
 * What a model computes. A language model: logits [batch*seq, vocab], and the hidden states before the output layer, with
 * the images of a family that reads them and with what it computes beside; others: see TaskFamily. All modules and weights of
 * the model are in it. Needs no weights.
 */
export function forwardGraph(config: ModelConfig, attentionBlocks = 1): Graph {
  if ("task" in config) return { outputs: taskForward(config) };
  const { hidden, head, unread = [] } = forwardWithImages(config, { ...decoderInputs(), attentionBlocks });
  const beside = Object.fromEntries(unread.map((value, i) => [`unread.${i}`, value]));
  return { outputs: { hidden, logits: logitsOf(hidden, head), ...beside } };
}

/** Module paths of output layers, which "all-linear" leaves out. */
const outputLayers = new Set(["lm_head", "embed_out"]);
/** Those of classifiers. */
const classifierHeads = new Set(["classifier", "score"]);

/**
 * The modules with a weight matrix that a graph runs, in the order it runs them. `older` is what older releases of
 * Transformers call one.
 */
export function modulesOf(graph: Graph, older: (path: string) => string[] = () => []): ModuleInfo[] {
  const modules = new Map<string, ModuleInfo>();
  for (const { op, inputs, attributes } of nodesOf(graph)) {
    if (op !== "linear" && op !== "embedding") continue;
    const path = String(attributes["path"]);
    const weight = inputs[1]!;
    const [rows, columns] = weight.shape as [number, number];
    const kind = weight.node.op === "transpose" ? "conv1d" : "linear";
    const info: ModuleInfo =
      op === "linear"
        ? { path, kind, inFeatures: columns, outFeatures: rows, isOutputEmbedding: outputLayers.has(path) }
        : { path, kind: "embedding", inFeatures: rows, outFeatures: columns };
    if (op === "linear" && inputs.length > 2) info.hasBias = true;
    if (op === "linear" && classifierHeads.has(path)) info.isClassifierHead = true;
    if (older(path).length > 0) info.olderPaths = older(path);
    modules.set(path, info);
  }
  return [...modules.values()];
}

/**
 * Under which names a checkpoint stores weights that it has not under the model's own: under `older` names, and a checkpoint
 * of the bare model, as GPT-2's and BLOOM's are on the hub, lacks the first word ("transformer.").
 */
export function storedNames(
  graph: Graph,
  stored: ReadonlyMap<string, unknown>,
  older: (name: string) => string[] = () => [],
): Map<string, string> {
  const names = nodesOf(graph).flatMap(({ op, attributes }) => (op === "weight" ? [String(attributes["name"])] : []));
  const found = names.map((name): [string, string | undefined] => {
    const spellings = [name, ...older(name)];
    const bare = spellings.map((spelling) => spelling.replace(/^[^.]+\./, ""));
    return [name, [...spellings, ...bare].find((spelling) => stored.has(spelling))];
  });
  return new Map(found.filter((pair): pair is [string, string] => pair[1] !== undefined && pair[1] !== pair[0]));
}

/** Number of parameters of the base model, from its config alone: without the head that a task adds. */
export function countParameters(config: ModelConfig): number {
  const head = newHeadOf(config);
  const added = head === null ? null : `${head}.`;
  let total = 0;
  for (const { op, attributes } of nodesOf(forwardGraph(config))) {
    const isBase = op === "weight" && !(added && String(attributes["name"]).startsWith(added));
    if (isBase) total += (attributes["shape"] as number[]).reduce((a, b) => a * b, 1);
  }
  return total;
}
