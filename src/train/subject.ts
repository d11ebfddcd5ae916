// What a run trains: θ, its first value, how the network is opened around it and how it is saved. One function a method.
import type { Files } from "../files.ts";
import { findTensor } from "../formats/checkpoint.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import type { Graph } from "../graph/graph.ts";
import { type Adapter, adapterAgainst, adapterBytes, readAdapter, writeAdapter } from "../lora/adapter.ts";
import { initAdapter, type LoraFactors } from "../lora/init.ts";
import { matchModules, resolveConfig } from "../lora/match.ts";
import type { Base } from "../models/base.ts";
import { checkMadeFor } from "../models/fingerprint.ts";
import { sizeOf } from "../tensor.ts";
import { lossGraph } from "./causal-lm.ts";
import type { Facts, SaveWeights } from "./checkpoint.ts";
import { readTheta, writeTheta } from "./full.ts";
import { fullObjective, loraObjective, type ObjectiveOptions, type OpenObjective } from "./objective.ts";
import { loraConfigOf, type RunOptions } from "./options.ts";
import { fullEntries, fullGraph, loraEntries, loraGraph } from "./trained.ts";

export interface Subject {
  /** How many modules are adapted; null when every weight is trained. */
  modules: number | null;
  /** Length of θ. */
  trainable: number;
  /** Size in bytes of the weights that are written. */
  resultBytes: number;
  /** The first value of θ; for the method "full" the weights are read here. */
  theta(): Promise<Float32Array>;
  /** What of it determines the bits of the run. */
  facts: Facts;
  saveWeights: SaveWeights;
  /** The adapter that a θ is, its factors not copied; null when every weight is trained. */
  adapterOf: ((theta: Float32Array) => Adapter) | null;
  /** The graph that `open` runs. */
  graph(loss: Graph): Graph;
  open(options: ObjectiveOptions): Promise<OpenObjective>;
}

export const subjects: Record<RunOptions["method"], (files: Files, base: Base, options: RunOptions) => Promise<Subject>> = {
  lora: adapterSubject,
  full: fullSubject,
};

/** A LoRA adapter: a new one, or the one to go on with. */
async function adapterSubject(files: Files, base: Base, options: RunOptions): Promise<Subject> {
  const adapter = options.adapter === undefined ? newAdapter(base, options) : await readAdapter(files, options.adapter);
  adapterAgainst(adapter, base.modules);
  await checkMadeFor(base, adapter, options.anyBase);
  const { config, modules } = adapter;
  const named = { ...config, baseModelNameOrPath: options.baseName ?? null };
  const { baseModelNameOrPath: _, ...determining } = config;
  const theta = thetaOf(adapter);
  const baseFingerprint = await base.fingerprint();
  const adapterOf = (trained: Float32Array): Adapter => ({
    config: named,
    modules,
    tensors: new Map(factorsIn(adapter, trained)),
    baseFingerprint,
  });
  return {
    modules: modules.length,
    trainable: theta.length,
    resultBytes: adapterBytes(modules),
    theta: async () => theta,
    facts: { adapter: JSON.stringify(determining), initialValues: fingerprint([new Uint32Array(theta.buffer)]) },
    saveWeights: (folder, trained) => writeAdapter(files, folder, adapterOf(trained)),
    adapterOf,
    graph: (loss) => loraGraph(loss, { modules }, config.dropout > 0),
    open: (options) => loraObjective({ ...options, modules, dropout: config.dropout }),
  };
}

function newAdapter({ modules, config: { modelType } }: Base, options: RunOptions): Adapter {
  const config = loraConfigOf(options);
  const matched = matchModules(modules, config, modelType);
  const tensors = initAdapter(matched, config, options.seed);
  return { config: resolveConfig(config, modules, matched, modelType), modules: matched, tensors };
}

/** The factors of an adapter as one vector, in the order of `loraEntries`. */
export function thetaOf(adapter: Pick<Adapter, "modules" | "tensors">): Float32Array {
  const theta = new Float32Array(loraEntries(adapter).reduce((sum, { shape }) => sum + sizeOf(shape), 0));
  for (const [path, { loraA, loraB }] of factorsIn(adapter, theta)) {
    loraA.set(adapter.tensors.get(path)!.loraA);
    loraB.set(adapter.tensors.get(path)!.loraB);
  }
  return theta;
}

/** The factors of each module inside `theta`, not copied. */
function factorsIn({ modules }: Pick<Adapter, "modules">, theta: Float32Array): [string, LoraFactors][] {
  const parts = loraEntries({ modules }).map(({ offset, shape }) => theta.subarray(offset, offset + sizeOf(shape)));
  return modules.map(({ path }, i) => [path, { loraA: parts[2 * i]!, loraB: parts[2 * i + 1]! }]);
}

/** Every weight of the base. */
async function fullSubject(files: Files, { checkpoint, config }: Base): Promise<Subject> {
  const entries = fullEntries(lossGraph(config, { maxTargets: 1, maxLength: 1 }));
  return {
    modules: null,
    trainable: entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    resultBytes: entries.reduce((sum, { key }) => sum + findTensor(checkpoint, key).length, 0),
    theta: () => readTheta(files, checkpoint, entries),
    facts: {},
    adapterOf: null,
    saveWeights: (folder, trained) => writeTheta(files, checkpoint, entries, folder, trained),
    graph: fullGraph,
    open: fullObjective,
  };
}
