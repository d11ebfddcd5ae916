// What a run trains: θ, its first value, how the network is opened around it and how it is saved. One function a method.

import { adapterAgainst } from "../adapters/attach.ts";
import { initAdapter, initSaved, type LoraFactors } from "../adapters/init.ts";
import { matchModules, resolveConfig } from "../adapters/match.ts";
import { type Adapter, adapterBytes, savedKey, writeAdapter } from "../adapters/peft-files.ts";
import { type SavedTensor, savedWeights } from "../adapters/saved.ts";
import type { RunIdentity } from "../data/types.ts";
import type { Files } from "../files.ts";
import { findTensor, readWeights, storedName } from "../formats/checkpoint.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import { toFloat32 } from "../formats/float.ts";
import type { Graph } from "../graph/graph.ts";
import type { AnyBase } from "../models/base.ts";
import { classifierCheckpoint } from "../models/classifier-checkpoint.ts";
import { checkMadeFor } from "../models/fingerprint.ts";
import { forwardGraph } from "../models/registry.ts";
import { ownTask, taskOf } from "../tasks/index.ts";
import { sizeOf } from "../tensor.ts";
import type { SaveWeights } from "./checkpoint.ts";
import { type NewHead, readTheta, writeTheta } from "./full.ts";
import { fullObjective, loraObjective, type ObjectiveOptions, type OpenObjective } from "./objective.ts";
import { loraConfigOf, type RunOptions } from "./options.ts";
import { fullEntries, fullGraph, loraEntries, loraGraph } from "./training-graph.ts";
import type { ThetaEntry } from "./types.ts";

export interface TrainableModel {
  /** How many modules are adapted; null when every weight is trained. */
  modules: number | null;
  /** Length of θ. */
  trainable: number;
  /** Size in bytes of the weights that are written. */
  resultBytes: number;
  /** The first value of θ; for the method "full" the weights are read here. */
  theta(): Promise<Float32Array>;
  /** θ with the adapter off, from its first value; that value itself when every weight is trained. */
  off(theta: Float32Array): Float32Array;
  /** What of it determines the bits of the run. */
  facts: RunIdentity;
  saveWeights: SaveWeights;
  /** The adapter that a θ is, its factors not copied; null when every weight is trained. */
  adapterOf: ((theta: Float32Array) => Adapter) | null;
  /** The graph that `open` runs. */
  graph(loss: Graph): Graph;
  open(options: ObjectiveOptions): Promise<OpenObjective>;
}

/** What it is made of beside the options. */
export interface TrainableParts {
  /** The adapter to go on with. */
  given: Adapter | null;
  /** The loss that the run minimises, for batches of one token: which weights it reads. */
  loss: Graph;
  /** What the adapter's classes are called; absent where the task has none. */
  labels?: readonly string[];
}

type MakeTrainable = (files: Files, base: AnyBase, options: RunOptions, parts: TrainableParts) => Promise<TrainableModel>;

export const trainableModels: Record<RunOptions["method"], MakeTrainable> = {
  lora: adapterModel,
  full: fullModel,
};

/** A LoRA adapter: a new one, or the one to go on with. */
async function adapterModel(
  files: Files,
  base: AnyBase,
  options: RunOptions,
  { given, labels }: TrainableParts,
): Promise<TrainableModel> {
  const adapter = adapterAgainst(given ?? (await newAdapter(files, base, options)), base.modules);
  await checkMadeFor(base, adapter, options.anyBase);
  const { config, modules } = adapter;
  const saved = savedWeights(base.modules, config);
  const named = { ...config, baseModelNameOrPath: options.baseName ?? null };
  const { baseModelNameOrPath: _, ...determining } = config;
  const theta = thetaOf(adapter);
  const baseFingerprint = await base.fingerprint();
  const adapterOf = (trained: Float32Array): Adapter => ({
    config: named,
    modules,
    tensors: new Map(factorsIn(adapter, trained)),
    ...(saved.length > 0 && { saved: savedIn(adapter, trained) }),
    ...(labels && { labels: [...labels] }),
    baseFingerprint,
  });
  return {
    modules: modules.length,
    trainable: theta.length,
    resultBytes: adapterBytes(modules, saved, labels && [...labels]),
    theta: async () => theta,
    off(first) {
      const values = first.slice();
      for (const { offset, shape, group } of entriesOf(adapter))
        if (group === "B") values.fill(0, offset, offset + sizeOf(shape));
      return values;
    },
    facts: { adapter: JSON.stringify(determining), initialValues: fingerprint([new Uint32Array(theta.buffer)]) },
    saveWeights: (folder, trained) => writeAdapter(files, folder, adapterOf(trained)),
    adapterOf,
    graph: (loss) => loraGraph(loss, { modules, saved }, config.dropout > 0),
    open: (options) => loraObjective({ ...options, modules, saved, dropout: config.dropout }),
  };
}

async function newAdapter(files: Files, base: AnyBase, options: RunOptions): Promise<Adapter> {
  const {
    checkpoint,
    modules,
    config: { modelType },
  } = base;
  const config = loraConfigOf(options, taskOf(options.task ?? ownTask(base.config)));
  const matched = matchModules(modules, config, modelType);
  const tensors = initAdapter(matched, config, options.seed);
  const saved = new Map<string, SavedTensor>();
  const head = missingHead(base, options.seed);
  for (const { name, shape } of savedWeights(modules, config)) {
    const stored = head?.has(name) ? undefined : checkpoint.tensors.get(storedName(checkpoint, name));
    const data = stored ? toFloat32(await readWeights(files, checkpoint, name)) : initSaved(name, shape, options.seed);
    saved.set(name, { shape, data });
  }
  const resolved = resolveConfig(config, modules, matched, modelType);
  return { config: resolved, modules: matched, tensors, ...(saved.size > 0 && { saved }) };
}

/** The trained tensors of an adapter as one vector, in the order of `loraEntries`. */
export function thetaOf(adapter: Pick<Adapter, "modules" | "tensors" | "saved">): Float32Array {
  const theta = new Float32Array(entriesOf(adapter).reduce((sum, { shape }) => sum + sizeOf(shape), 0));
  for (const [path, { loraA, loraB }] of factorsIn(adapter, theta)) {
    loraA.set(adapter.tensors.get(path)!.loraA);
    loraB.set(adapter.tensors.get(path)!.loraB);
  }
  for (const [name, { data }] of savedIn(adapter, theta)) data.set(adapter.saved!.get(name)!.data);
  return theta;
}

function entriesOf({ modules, saved = new Map() }: Pick<Adapter, "modules" | "saved">): ThetaEntry[] {
  return loraEntries({ modules, saved: [...saved].map(([name, { shape }]) => ({ name, shape: [...shape] })) });
}

/** The weights that are trained in full inside `theta`, not copied. */
function savedIn(adapter: Pick<Adapter, "modules" | "saved">, theta: Float32Array): Map<string, SavedTensor> {
  const entries = new Map(entriesOf(adapter).map((entry) => [entry.key, entry]));
  const within = [...(adapter.saved ?? [])].map(([name, { shape }]): [string, SavedTensor] => {
    const { offset } = entries.get(savedKey(name))!;
    return [name, { shape, data: theta.subarray(offset, offset + sizeOf(shape)) }];
  });
  return new Map(within);
}

/** The factors of each module inside `theta`, not copied. */
function factorsIn({ modules }: Pick<Adapter, "modules">, theta: Float32Array): [string, LoraFactors][] {
  const parts = loraEntries({ modules }).map(({ offset, shape }) => theta.subarray(offset, offset + sizeOf(shape)));
  return modules.map(({ path }, i) => [path, { loraA: parts[2 * i]!, loraB: parts[2 * i + 1]! }]);
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
    trainable: entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    resultBytes:
      names.filter((name) => !head?.has(name)).reduce((sum, name) => sum + findTensor(checkpoint, name).length, 0) +
      added.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0),
    theta: () => readTheta(files, checkpoint, entries, head),
    off: (theta) => theta.slice(),
    facts: {},
    adapterOf: null,
    saveWeights: (folder, theta) => writeTheta(files, written, entries, folder, theta, { kept, head, config: headed?.config }),
    graph: fullGraph,
    open: fullObjective,
  };
}

/** The head that the base's config asks for and its checkpoint does not have; undefined if there is none. */
function missingHead({ config }: AnyBase, seed: number): NewHead | undefined {
  const name = config.uninitializedHead;
  if (name === null) return undefined;
  return { has: (weight) => weight.startsWith(`${name}.`), values: (weight, shape) => initSaved(weight, shape, seed) };
}
