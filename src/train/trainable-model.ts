// What a run trains: θ, its first value, its graph and how it is saved. One function a method.

import { fitAdapter } from "../adapters/attach.ts";
import type { LoraConfig } from "../adapters/config.ts";
import { firstTensors, initSaved } from "../adapters/init.ts";
import { gateFeeds } from "../adapters/inject.ts";
import {
  type LayoutEntry,
  layoutOf,
  lengthOfTheta,
  type ThetaEntry,
  type Trained,
  thetaOf,
  trainedBy,
  trainedEntries,
  viewsOf,
} from "../adapters/layout.ts";
import { frozenWeights, matchModules, rankWarnings, resolveConfig } from "../adapters/match.ts";
import type { TensorGroup } from "../adapters/method.ts";
import { methodOf } from "../adapters/method-table.ts";
import { type Adapter, adapterBytes, writeAdapter } from "../adapters/peft-files.ts";
import { isResidual, plainAdapter, plainModules } from "../adapters/residual.ts";
import { ownName, type SavedTensor, type SavedWeight, savedWeights, storedValues } from "../adapters/saved.ts";
import type { RunIdentity } from "../data/types.ts";
import type { Files } from "../files.ts";
import { entryOf, findTensor, readWeights } from "../formats/checkpoint.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import { toFloat32 } from "../formats/float.ts";
import { copySideFiles, isTokenizerFile } from "../formats/side-files.ts";
import { writtenBytes } from "../formats/stored.ts";
import type { Graph } from "../graph/graph.ts";
import type { AnyBase } from "../models/base.ts";
import { classifierCheckpoint } from "../models/classifier-checkpoint.ts";
import { configText } from "../models/config-text.ts";
import { writeHead } from "../models/heads/index.ts";
import { forwardGraph } from "../models/registry.ts";
import { ownTask, taskOf } from "../tasks/index.ts";
import { sizeOf, type Tensor } from "../tensor.ts";
import type { SaveWeights } from "./checkpoint.ts";
import { type NewHead, readTheta, writeTheta } from "./full.ts";
import { optimizers } from "./optimizer.ts";
import { loraConfigOf, type RunOptions } from "./options.ts";
import { fullEntries, fullGraph, loraGraph } from "./training-graph.ts";

/** What is known of it before a weight is read or θ is made. */
export interface TrainableModel {
  /** How many modules are adapted; null when every weight is trained. */
  modules: number | null;
  /** The tensors of θ. */
  entries: readonly ThetaEntry[];
  /** Length of θ. */
  trainable: number;
  /** Size in bytes of the weights that are written. */
  resultBytes: number;
  /** What may not be meant. */
  warnings: string[];
  /** The graph that is run. */
  graph(loss: Graph): Graph;
  /** Probability that an input element of an adapter is dropped in training. */
  dropout: number;
  /** What may not be meant, by the run's first batch; absent where no batch says that. */
  batchWarnings?: (batch: Record<string, Tensor>) => string[];
  /** What the graph reads beside a batch. */
  beside?: (batch: Record<string, Tensor>) => Record<string, Tensor>;
  /** Makes θ. */
  start(): Promise<StartedModel>;
}

export interface StartedModel {
  /** The first value of θ. */
  theta: Float32Array;
  /** θ with the adapter off: the base's own outputs; where every weight is trained, θ as it is. */
  off(theta: Float32Array): Promise<Float32Array>;
  /** What of it determines the bits of the run. */
  facts: RunIdentity;
  saveWeights: SaveWeights;
  /** The adapter that a θ is, its factors not copied; null when every weight is trained. */
  adapterOf: ((theta: Float32Array) => Adapter) | null;
}

export interface TrainableParts {
  /** The adapter to go on with. */
  given: Adapter | null;
  /** The loss that the run minimises, for batches of one token: which weights it reads. */
  loss: Graph;
  /** What the adapter's classes are called; absent where the task has none. */
  labels?: readonly string[];
}

type MakeTrainable = (files: Files, base: AnyBase, options: RunOptions, parts: TrainableParts) => Promise<TrainableModel>;

export const trainableModels: Record<RunOptions["method"], MakeTrainable> = { lora: adapterModel, full: fullModel };

async function adapterModel(
  files: Files,
  base: AnyBase,
  options: RunOptions,
  { given, labels }: TrainableParts,
): Promise<TrainableModel> {
  const fitted = given && fitAdapter(given, base.modules);
  const { constant } = optimizers[options.optimizer];
  const planned = fitted ? plannedOf(fitted, constant) : plannedAdapter(base, options, constant);
  const { trained, frozen } = planned;
  const entries = layoutOf(trained);
  const named = { task: options.task, ...(labels && { labels: [...labels] }) };
  const { config, modules } = trained;
  const { gate, title } = methodOf(config);
  return {
    modules: modules.length,
    entries,
    trainable: lengthOfTheta(trainedEntries(entries)),
    resultBytes: adapterBytes({ ...trained, ...plainModules(trained) }, frozen, named),
    warnings: rankWarnings(modules),
    graph: (loss) => loraGraph(loss, trained, config.dropout > 0),
    dropout: config.dropout,
    beside: (batch) => gateFeeds(config, batch),
    ...(gate && { batchWarnings: (batch) => (gate(config, batch).includes(1) ? [] : [idle(title)]) }),
    start: async () =>
      startedAdapter(files, base, options, fitted ?? (await newAdapter(files, base, options, planned)), {
        entries,
        constant,
        named,
      }),
  };
}

const idle = (method: string): string =>
  `no example of the first batch has the tokens of the invocation, and ${method} learns nothing from such examples; a text has other tokens inside a sentence than alone, so that a space before it may be a part of them`;

async function startedAdapter(
  files: Files,
  base: AnyBase,
  options: RunOptions,
  adapter: Adapter,
  {
    entries,
    constant,
    named,
  }: { entries: LayoutEntry[]; constant: readonly TensorGroup[]; named: Pick<Adapter, "task" | "labels"> },
): Promise<StartedModel> {
  const { config, modules, frozen } = adapter;
  const ownConfig = { ...config, baseModelNameOrPath: options.baseName ?? null };
  const { baseModelNameOrPath: _, evaConfig, ...others } = config;
  const determining = { ...others, ...(evaConfig && { evaConfig }) }; // runs of before EVA have none
  const theta = thetaOf(adapter, entries);
  const trained = { ...trainedBy(adapter), constant };
  const baseFingerprint = await base.fingerprint();
  const adapterOf = (values: Float32Array): Adapter => {
    const { tensors, saved } = viewsOf(trained, values);
    const beside = { ...(saved.size > 0 && { saved }), ...(frozen && { frozen }), ...named };
    return plainAdapter({ config: ownConfig, modules, tensors, ...beside, baseFingerprint });
  };
  return {
    theta,
    off: async () => thetaOf(await identityAdapter(files, base, adapter), entries),
    facts: {
      adapter: JSON.stringify(determining),
      initialValues: fingerprint([new Uint32Array(theta.buffer)]),
      ...(config.dropout > 0 && { dropoutDraws: "by row" }), // once by batch
    },
    async saveWeights(to, folder, trained) {
      await writeAdapter(to, folder, adapterOf(trained));
      // What reads those files, reads a tokenizer beside them.
      if (await writeHead(to, folder, base.config)) await copySideFiles(to, base.checkpoint.folder, folder, isTokenizerFile);
    },
    adapterOf,
  };
}

/** An adapter without its values. */
interface PlannedAdapter {
  /** As it is made; `trained` has it as it is stored. */
  config: LoraConfig;
  trained: Required<Trained>;
  frozen: SavedWeight[];
}

const plannedOf = (adapter: Adapter, constant: readonly TensorGroup[]): PlannedAdapter => {
  const { config, frozen = new Map<string, SavedTensor>() } = adapter;
  const shapes = [...frozen].map(([name, { shape }]) => ({ name, shape: [...shape] }));
  return { config, trained: { ...trainedBy(adapter), constant }, frozen: shapes };
};

function plannedAdapter(base: AnyBase, options: RunOptions, constant: readonly TensorGroup[]): PlannedAdapter {
  const { checkpoint, modules } = base;
  const { modelType } = base.config;
  const config = loraConfigOf(options, taskOf(options.task ?? ownTask(base.config)));
  const matched = matchModules(modules, config, modelType);
  const resolved = resolveConfig(config, modules, matched, modelType);
  const frozen = frozenWeights(resolved, modules, matched).map((name) => {
    return { name, shape: findTensor(checkpoint, ownName(base, name)).shape };
  });
  const saved = savedWeights(modules, config, matched);
  return { config, trained: { config: resolved, modules: matched, saved, constant }, frozen };
}

async function newAdapter(files: Files, base: AnyBase, options: RunOptions, planned: PlannedAdapter): Promise<Adapter> {
  const { checkpoint } = base;
  const { config, modules } = planned.trained;
  const saved = new Map<string, SavedTensor>();
  const head = missingHead(base, options.seed);
  for (const weight of planned.trained.saved) {
    const { name, ...facts } = weight;
    const isNew = head?.has(name);
    const data = isNew ? initSaved(name, weight.shape, options.seed) : await storedValues(files, base, weight);
    saved.set(name, { ...facts, data });
  }
  const frozen = new Map<string, SavedTensor>();
  for (const { name } of planned.frozen) {
    const tensor = await readWeights(files, checkpoint, ownName(base, name));
    frozen.set(name, { shape: tensor.shape, data: toFloat32(tensor) });
  }
  const tensors = await firstTensors(base, planned.config, modules, options.seed);
  const beside = { ...(saved.size > 0 && { saved }), ...(frozen.size > 0 && { frozen }) };
  return { config, modules: [...modules], tensors, ...beside };
}

/** An adapter of the same layout that changes nothing; what is trained in full has the base's values, where it has any. */
async function identityAdapter(files: Files, base: AnyBase, { config, modules, tensors, saved }: Adapter): Promise<Adapter> {
  const own = new Map(saved);
  for (const [name, tensor] of own) {
    if (entryOf(base.checkpoint, ownName(base, name)))
      own.set(name, { ...tensor, data: await storedValues(files, base, { name, ...tensor }) });
  }
  // What takes its first factors off the base begins as no change.
  const changed = isResidual({ config }) ? tensors : await firstTensors(base, { ...config, initLoraWeights: true }, modules, 0);
  return { config, modules, tensors: changed, ...(saved && { saved: own }) };
}

/** Every weight of the base that the loss reads: of a model with images, without any those of its language model. */
async function fullModel(files: Files, base: AnyBase, { seed }: RunOptions, { loss }: TrainableParts): Promise<TrainableModel> {
  const { checkpoint, config } = base;
  const entries = fullEntries(loss);
  const trained = new Set(entries.map(({ key }) => key));
  const names = fullEntries(forwardGraph(config)).map(({ key }) => key);
  const kept = names.filter((name) => !trained.has(name));
  const head = missingHead(base, seed);
  const headed = await classifierCheckpoint(files, base);
  const written = headed?.checkpoint ?? checkpoint;
  const added = entries.filter(({ key }) => head?.has(key));
  return {
    modules: null,
    entries,
    trainable: lengthOfTheta(entries),
    resultBytes:
      names.filter((name) => !head?.has(name)).reduce((sum, name) => sum + writtenBytes(findTensor(checkpoint, name)), 0) +
      added.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0),
    warnings: [],
    graph: fullGraph,
    dropout: 0,
    start: async () => ({
      theta: await readTheta(files, checkpoint, entries, head),
      off: async (theta) => theta.slice(),
      facts: {},
      adapterOf: null,
      async saveWeights(to, folder, theta) {
        await writeTheta(to, written, entries, folder, theta, {
          kept,
          head,
          config: headed ? configText(headed.config) : undefined,
        });
        await writeHead(to, folder, config);
      },
    }),
  };
}

/** The head that the base's config asks for and its checkpoint does not have; undefined if there is none. */
function missingHead({ config }: AnyBase, seed: number): NewHead | undefined {
  const name = config.uninitializedHead;
  if (name === null) return undefined;
  return { has: (weight) => weight.startsWith(`${name}.`), values: (weight, shape) => initSaved(weight, shape, seed) };
}
