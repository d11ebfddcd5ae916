// What is asked of any model: a family's backbone (families/index.ts) under a head (heads/index.ts).
import { z } from "zod";
import { LowrankError, nearest } from "../errors.ts";
import type { Graph, Value } from "../graph/graph.ts";
import { apply, nodesOf, rewrite } from "../graph/graph.ts";
import type { LayerPlace } from "../graph/ops/linear.ts";
import { sizeOf } from "../tensor.ts";
import { type BackboneConfig, type DecoderConfig, unsupported } from "./config/config.ts";
import { readJson, shownValue } from "./config/schema.ts";
import * as table from "./families/index.ts";
import type { Family, StoredIn } from "./family.ts";
import type { Classifier, HeadChoice, HeadConfig, HeadName, Heads, ModelConfig } from "./heads/head.ts";
import { decoderHeads, headConfig, heads } from "./heads/index.ts";
import { placed, type Vision } from "./images.ts";
import { type Backbone, type DecoderInputs, type DecoderOutputs, decoderInputs, type ModelInputs } from "./layers/blocks.ts";
import { type ModuleInfo, weightsIn } from "./module.ts";

export type { HeadChoice, ModelConfig } from "./heads/head.ts";
export { logitsOf } from "./heads/lm.ts";

type AnyFamily = Family<BackboneConfig, ModelInputs>;
const families: Record<string, AnyFamily> = table;
const familyOf = ({ modelType }: Pick<ModelConfig, "modelType">): AnyFamily => families[modelType]!;

/** The heads of a family: those it names, of a decoder of texts all, of one that reads images its own. */
const headsOf = ({ heads: own, vision }: AnyFamily): Heads => own ?? (vision ? { lm: null } : decoderHeads);

/** The `model_type`s that can be read. */
export const modelTypes = Object.keys(families);
/** Those that a head goes on. */
export const typesWith = (head: HeadName): string[] => modelTypes.filter((name) => head in headsOf(families[name]!));
/** Those of language models. */
export const decoderTypes = typesWith("lm");
/** Those of language models that read images. */
export const imageTypes = decoderTypes.filter((name) => families[name]!.vision);

/** A language model's config. */
export type DecoderModel = DecoderConfig & HeadConfig;

/**
 * The parsed JSON of a config.json. `file` is what errors call it. Fails on a model type that isn't built, and with the
 * errors of the family's reader.
 */
export function modelConfig(json: unknown, file = "config.json"): ModelConfig {
  const { model_type: modelType } = readJson(z.object({ model_type: z.string() }), json, file);
  if (Object.hasOwn(families, modelType)) {
    const family = families[modelType]!;
    return { ...family.config(json, file), ...headConfig(json, file, headsOf(family)) };
  }
  throw unsupported(file, "model_type", `the model type ${shownValue(modelType)} is not supported`, {
    expected: modelTypes.join(", "),
    got: shownValue(modelType),
    next: `The nearest supported one is ${nearest(modelType.slice(0, 64), modelTypes, 1)[0]}. A new family is a file in src/models/families/ and a line in src/models/families/index.ts (docs/add-a-model.md).`,
  });
}

/** The heads that a model can have, the usual one first. */
export const headNames = (config: ModelConfig): HeadName[] => Object.keys(headsOf(familyOf(config))) as HeadName[];

/** The layer of a head on a model's family; null for a head without one. */
const classifierOf = (config: ModelConfig, head = config.head): Classifier | null => headsOf(familyOf(config))[head] ?? null;

/** The module that a model's head adds to its backbone; null if it adds none. */
export const headModule = (config: ModelConfig): string | null => classifierOf(config)?.path ?? null;

type Stored = ReadonlyMap<string, { shape: readonly number[] }>;

/** `config` as the weights have it: its classifier counts as there if one for its labels is stored, whatever class it names. */
export function withStoredHead(config: ModelConfig, stored: Stored): ModelConfig {
  const path = headModule(config);
  const isStored = path !== null && stored.get(`${path}.weight`)?.shape[0] === config.labels.length;
  return { ...config, uninitializedHead: isStored ? null : path };
}

/**
 * The config of the same backbone under another head, or with other labels: of these its classifier is a new one. Fails with
 * `model/head` for a head that the family does not have.
 */
export function withHead(config: ModelConfig, choice: HeadChoice, stored: Stored): ModelConfig {
  const chosen = { ...config, ...choice };
  const { head, labels } = chosen;
  if (!headNames(config).includes(head)) {
    throw new LowrankError("model/head", `${config.modelType} has no ${head} here`, {
      subject: "head",
      expected: headNames(config).join(", "),
      got: head,
      next: `Use a model of type ${typesWith(head).join(", ")}.`,
    });
  }
  const isOwn = labels.length === config.labels.length && labels.every((label, i) => label === config.labels[i]);
  if (head === config.head) {
    return { ...chosen, uninitializedHead: isOwn ? config.uninitializedHead : headModule(config) };
  }
  const other = withStoredHead(chosen, stored);
  return isOwn ? other : { ...other, uninitializedHead: headModule(other) };
}

/** Layers of the checkpoint that a model has instead of all of them: from `start` to before `end`, one range after another. */
export type LayerRanges = readonly (readonly [start: number, end: number])[];

/**
 * The config of a model with layers that are used again, as PEFT's `layer_replication` has them, or with those of the checkpoint (null).
 * Fails with `model/layers` for a model of which PEFT finds no list of layers, and for ranges outside of it.
 */
export function withLayers(config: ModelConfig, ranges: LayerRanges | null): ModelConfig {
  const { layerSources: _, storedLayers, ...rest } = config as DecoderModel;
  const original: DecoderModel = { ...rest, layers: storedLayers ?? rest.layers };
  if (ranges === null) return storedLayers === undefined ? config : original;
  const layerSources = ranges.flatMap(([start, end]) => Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i));
  const refuse = (message: string, expected: string): never => {
    const facts = {
      subject: "layerReplication",
      expected,
      got: JSON.stringify(ranges),
      next: "Change layerReplication, or leave it out.",
    };
    throw new LowrankError("model/layers", message, facts);
  };
  const hasLayers = modulesOf(forwardGraph(original)).some(({ path }) => /^(model\.)?layers\.\d+\./.test(path));
  if (!hasLayers || visionOf(config)) refuse(`layers of ${config.modelType} can't be used again`, "a decoder of Llama's kind");
  if (layerSources.length === 0 || ranges.some(([start, end]) => start >= end || end > original.layers))
    refuse(
      "the ranges of layers are not those of the model",
      `ranges from 0 to ${original.layers}, each with its start before its end`,
    );
  return { ...original, layers: layerSources.length, layerSources, storedLayers: original.layers } as ModelConfig;
}

/** The commands that a model with its head does its work by. */
export const useOf = ({ head }: ModelConfig): string => heads[head].use;

/** `config` if it is a language model's; fails with `model/unsupported` if not. */
export function asDecoder(config: ModelConfig, file: string): DecoderModel {
  if (config.head === "lm") return config as DecoderModel;
  throw unsupported(file, "model_type", `${config.modelType} is not a language model here: it has the head ${config.head}`, {
    expected: decoderTypes.join(", "),
    got: shownValue(config.modelType),
    next: `Choose a language model. This one is for ${useOf(config)}.`,
  });
}

/** What a model reads, by name, where whole sequences or images are fed. */
export const modelInputs = (config: ModelConfig): Record<string, Value> =>
  familyOf(config).inputs?.(config) ?? { ...decoderInputs() };

/** Transformers' class of a model with its classifier; null for a head that needs none. */
export function architectureOf(config: ModelConfig): string | null {
  const { savedAs } = heads[config.head];
  return savedAs && `${transformersName(config.modelType)}${savedAs}`;
}

/** How Transformers' classes of a model type begin, where it is not the type in capitals at its words. */
const CLASS_NAMES: Record<string, string> = {
  gpt2: "GPT2",
  gpt_neox: "GPTNeoX",
  vit: "ViT",
  clip: "CLIP",
  smollm3: "SmolLM3",
};
const transformersName = (type: string): string =>
  CLASS_NAMES[type] ?? type.replace(/(^|_)([a-z])/g, (_, _word, letter: string) => letter.toUpperCase());

/** The first word of module paths that the model's class lacks, with its dot; "" if it has all. */
const bareOf = (config: ModelConfig): string => `${familyOf(config).prefix ?? "model"}.`;

/** What older releases of Transformers call a module or weight of the model, where they call it otherwise; the newest first. */
export function olderNames(config: ModelConfig, name: string): string[] {
  const { olderNames: styles = [] } = familyOf(config);
  const bare = heads[config.head].isBare ? bareOf(config) : "";
  const older = styles.map((style) => style(bare + name)).map((full) => (full.startsWith(bare) ? full.slice(bare.length) : full));
  return [...new Set(older)].filter((one) => one !== name);
}

/** The larger tensor that a checkpoint may store a weight of the model in. */
export const storedIn = (config: ModelConfig, name: string): StoredIn | undefined => familyOf(config).storedIn?.(name);

/** The forward pass of a language model's backbone. */
export const forward = (config: DecoderConfig, inputs: DecoderInputs): DecoderOutputs =>
  familyOf(config).forward(config, inputs) as DecoderOutputs;

/** The family's vision side; undefined if its language model reads no images. */
export const visionOf = (config: Pick<ModelConfig, "modelType">): Vision<DecoderConfig> | undefined => familyOf(config).vision;

/** What a model reads of an image: its channels, height and width, and whether it takes no image in tiles; undefined if it reads none. */
export function pixelShape(config: ModelConfig): { size: number[]; isWhole: boolean } | undefined {
  const vision = visionOf(config);
  const { pixelValues } = vision ? vision.pixels(config as DecoderModel) : modelInputs(config);
  return pixelValues && { size: pixelValues.shape.slice(-3) as number[], isWhole: !vision };
}

/** The backbone on these inputs, with images from their pixels: the inputs of the family's vision side. */
export function backboneOf(config: ModelConfig, inputs: ModelInputs): Backbone {
  const vision = visionOf(config);
  if (!vision) return familyOf(config).forward(config, inputs);
  const decoder = config as DecoderModel;
  const { features, unread: unseen = [] } = vision.encode(decoder, vision.pixels(decoder));
  const { unread = [], ...outputs } = familyOf(config).forward(config, { ...inputs, images: placed(vision, features) });
  return { ...outputs, unread: [...unseen, ...unread] };
}

/**
 * What a model computes, by name: the outputs of its head (heads/), and beside them what no head reads. Modules and weights are
 * called as in the model's class. Needs no weights.
 */
export function modelOutputs(config: ModelConfig, inputs: ModelInputs = modelInputs(config)): Record<string, Value> {
  const head = heads[config.head];
  const backbone = backboneOf(config, inputs);
  const beside = Object.fromEntries((backbone.unread ?? []).map((value, i) => [`unread.${i}`, value]));
  const outputs = { ...head.outputs(config, backbone, inputs, classifierOf(config)), ...beside };
  return head.isBare ? withoutPrefix(outputs, bareOf(config)) : outputs;
}

/** The outputs of a graph whose modules and weights lack their first word. */
function withoutPrefix(outputs: Record<string, Value>, prefix: string): Record<string, Value> {
  const strip = (name: unknown): string => (String(name).startsWith(prefix) ? String(name).slice(prefix.length) : String(name));
  const renamed = rewrite({ outputs }, ({ op, attributes }, inputs) => {
    const key = op === "weight" ? "name" : op === "linear" || op === "embedding" ? "path" : null;
    return key === null ? null : apply(op, inputs, { ...attributes, [key]: strip(attributes[key]) });
  });
  return { ...renamed.outputs };
}

const forwardGraphs = new WeakMap<ModelConfig, Graph>();

/** `modelOutputs` as a graph: all modules and weights of the model are in it. It is made once for a config. */
export function forwardGraph(config: ModelConfig): Graph {
  const graph = forwardGraphs.get(config) ?? { outputs: modelOutputs(config, { ...modelInputs(config), attentionBlocks: 1 }) };
  forwardGraphs.set(config, graph);
  return graph;
}

/** Module paths of output layers, which "all-linear" leaves out. */
const outputLayers = new Set(["lm_head", "embed_out"]);
/** Those of classifiers. */
const classifierHeads = new Set(["classifier", "score"]);

/** The name of the weight that a layer's matrix is made of. */
const weightName = ({ node }: Value): string =>
  node.op === "weight" || node.inputs.length === 0 ? String(node.attributes["name"]) : weightName(node.inputs[0]!);

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
    const { kernel, isParameter, expert, experts, half } = attributes as LayerPlace;
    const [rows, columns] = weight.shape as [number, number];
    if (experts !== undefined) {
      const part = { weight: weightName(weight), expert: expert!, ...(half !== undefined && { half }) };
      const outFeatures = half === undefined ? rows : 2 * rows;
      const known = modules.get(path) ?? { path, kind: "experts", inFeatures: columns, outFeatures, experts, isParameter: true };
      modules.set(path, { ...known, parts: [...(known.parts ?? []), part] });
      continue;
    }
    const kind = weight.node.op === "transpose" ? "conv1d" : kernel ? "conv2d" : "linear";
    const info: ModuleInfo =
      op === "linear"
        ? { path, kind, inFeatures: columns, outFeatures: rows, isOutputEmbedding: outputLayers.has(path) }
        : { path, kind: "embedding", inFeatures: rows, outFeatures: columns };
    const name = weightName(weight);
    if (name !== `${path}.weight` && !info.isOutputEmbedding) info.weight = name;
    if (kernel) info.kernel = kernel;
    if (isParameter) info.isParameter = isParameter;
    if (op === "linear" && inputs.length > 2) info.hasBias = true;
    const own = weight.node.op === "weight" ? String(weight.node.attributes["name"]) : `${path}.weight`;
    if (own !== `${path}.weight`) info.tiedTo = own;
    if (op === "linear" && classifierHeads.has(path)) info.isClassifierHead = true;
    if (older(path).length > 0) info.olderPaths = older(path);
    modules.set(path, info);
  }
  return [...modules.values()];
}

/** `modulesOf`, and behind them the modules of other weights and biases (norms, convolutions), and parameters of no module. */
export function allModulesOf(graph: Graph, older: (path: string) => string[] = () => []): ModuleInfo[] {
  const layers = modulesOf(graph, older);
  const known = new Set(layers.map(({ path }) => path));
  const others = new Map<string, Partial<Record<"weight" | "bias", readonly number[]>>>();
  const parameters: ModuleInfo[] = [];
  for (const { name, shape } of weightsIn(graph)) {
    const [, path, end] = /^(.+)\.(weight|bias)$/.exec(name) ?? [];
    const facts = { shape, weight: name, isParameter: true } as const;
    if (!path)
      parameters.push({ path: name, kind: "other", inFeatures: sizeOf(shape.slice(1)), outFeatures: shape[0] ?? 1, ...facts });
    else if (!known.has(path)) others.set(path, { ...others.get(path), [end!]: shape });
  }
  const rest = [...others].map(([path, { weight, bias }]): ModuleInfo => {
    const shape = weight ?? bias!;
    const outFeatures = (bias ?? shape)[0]!;
    const olderPaths = older(path);
    const facts = { shape, ...(bias && { hasBias: true }), ...(olderPaths.length > 0 && { olderPaths }) };
    return { path, kind: "other", inFeatures: sizeOf(shape) / outFeatures, outFeatures, ...facts };
  });
  return [...layers, ...rest, ...parameters];
}

/**
 * Under which names a checkpoint stores weights that it has not under the model's own: under `older` names, and without the first word
 * ("transformer."), as checkpoints of bare models on the hub, or with it (`prefix`) where the model is the bare one.
 */
export function storedNames(
  graph: Graph,
  stored: ReadonlyMap<string, unknown>,
  older: (name: string) => string[] = () => [],
  prefix = "",
): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name } of weightsIn(graph)) {
    const spellings = [name, ...older(name)];
    const others = spellings.map((spelling) => (prefix ? prefix + spelling : spelling.replace(/^[^.]+\./, "")));
    const own = [...spellings, ...others].find((spelling) => stored.has(spelling)) ?? name;
    if (own !== name) found.set(name, own);
  }
  return found;
}

/** `storedNames` for a model. */
export const storedNamesOf = (config: ModelConfig, graph: Graph, stored: ReadonlyMap<string, unknown>): Map<string, string> =>
  storedNames(graph, stored, (name) => olderNames(config, name), heads[config.head].isBare ? bareOf(config) : "");

/** Number of parameters of the base model, from its config alone: without the head that a task adds. */
export function countParameters(config: ModelConfig): number {
  const added = config.uninitializedHead === null ? null : `${config.uninitializedHead}.`;
  const own = weightsIn(forwardGraph(config)).filter(({ name }) => added === null || !name.startsWith(added));
  return own.reduce((total, { shape }) => total + sizeOf(shape), 0);
}
