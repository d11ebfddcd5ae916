// The difference of two checkpoints as an adapter: the best approximation of each layer's change by B·A (truncated SVD).
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { type CheckpointTensor, findTensor } from "../formats/checkpoint.ts";
import { readRows, transposed } from "../formats/stored.ts";
import type { AnyBase } from "../models/base.ts";
import { weightsIn } from "../models/module.ts";
import { forwardGraph } from "../models/registry.ts";
import { type LoraConfig, loraConfig } from "./config.ts";
import { type AdapterModule, matchModules, shortestEndings } from "./match.ts";
import type { ModuleTensors } from "./method.ts";
import type { Adapter } from "./peft-files.ts";
import { withFactors } from "./resize.ts";
import { resolvedNames, type SavedTensor, savedWeights, storedValues } from "./saved.ts";
import { type Factors, truncateMatrix } from "./svd.ts";

export interface ExtractOptions {
  /** The highest rank. */
  rank: number;
  /** The share of each change's energy (the sum of its squared elements) to keep, if a lower rank does. */
  energy?: number;
  targetModules: LoraConfig["targetModules"];
  /** Of the task. What it saves, such as the head of a classifier, is the tuned model's. */
  taskType: LoraConfig["taskType"];
  modulesToSave?: LoraConfig["modulesToSave"];
  onProgress?: (progress: { module: string; done: number; total: number }) => void;
}

export interface ExtractedModule {
  path: string;
  rank: number;
  /** ‖change‖ / ‖W‖, and the share of ‖change‖² that the adapter has. */
  change: number;
  energy: number;
}

export interface Extracted {
  adapter: Adapter;
  modules: ExtractedModule[];
  /** Weights that differ and that the adapter does not have, with ‖change‖ / ‖W‖. */
  left: { name: string; change: number }[];
}

/**
 * An adapter for `base` that makes of it what `tuned` is, as far as its rank goes, with the head of `tuned` where the task trains one in
 * full. Layers that are the same in both are left out. Throws
 * `extract/shape` for models of different shapes, and `extract/same` where no chosen layer differs.
 */
export async function extractAdapter(files: Files, base: AnyBase, tuned: AnyBase, options: ExtractOptions): Promise<Extracted> {
  const { rank, energy = 1, targetModules, taskType, modulesToSave = null, onProgress } = options;
  const wanted = loraConfig({ rank, alpha: rank, targetModules, taskType, modulesToSave });
  const parameters = new Set(base.modules.filter(({ isParameter }) => isParameter).map(({ path }) => path)); // of experts and routers
  const matched = matchModules(base.modules, wanted, base.config.modelType).filter(({ path }) => !parameters.has(path));
  const byInputs = new Set(base.modules.filter(({ kind }) => kind === "embedding" || kind === "conv1d").map(({ path }) => path));
  const found: (Factors & { module: AdapterModule; about: ExtractedModule })[] = [];
  for (const [done, module] of matched.entries()) {
    onProgress?.({ module: module.path, done, total: matched.length });
    const { delta, size, norm } = await changeOf(files, base, tuned, `${module.path}.weight`);
    if (norm === 0) continue;
    const stored = byInputs.has(module.path);
    const change = stored ? transposed(delta, module.inFeatures, module.outFeatures) : delta;
    const { factors, kept } = truncated(truncateMatrix(change, module.outFeatures, module.inFeatures, rank), norm, energy);
    found.push({
      ...factors,
      module: { ...module, rank: factors.rank },
      about: { path: module.path, rank: factors.rank, change: Math.sqrt(norm / size), energy: kept },
    });
  }
  if (found.length === 0) {
    throw new LowrankError("extract/same", "the two models have the same weights where an adapter was looked for", {
      subject: tuned.checkpoint.folder,
      expected: "weights that differ from the base's",
      got: `${matched.length} layers without a difference`,
      next: "Check that the second model is the tuned one, or choose other layers with targetModules.",
    });
  }
  const paths = found.map(({ module }) => module.path);
  const saved = await savedOf(files, tuned, wanted);
  const config = {
    ...wanted,
    targetModules: shortestEndings(paths, base.modules, { from: 1 }),
    modulesToSave: saved.size > 0 ? resolvedNames(wanted, tuned.modules) : null,
  };
  const tensors = new Map(found.map(({ module, loraA, loraB }): [string, ModuleTensors] => [module.path, { loraA, loraB }]));
  const baseFingerprint = await base.fingerprint();
  const adapter = { ...withFactors(config, found), tensors, ...(saved.size > 0 && { saved }), baseFingerprint };
  const taken = new Set([...paths.map((path) => `${path}.weight`), ...saved.keys()]);
  return { adapter, modules: found.map(({ about }) => about), left: await leftOver(files, base, tuned, taken) };
}

/** The values in `tuned` of what `config` trains in full. */
async function savedOf(files: Files, tuned: AnyBase, config: LoraConfig): Promise<Map<string, SavedTensor>> {
  const saved = new Map<string, SavedTensor>();
  for (const { name, ...weight } of savedWeights(tuned.modules, config)) {
    saved.set(name, { ...weight, data: await storedValues(files, tuned, { name, ...weight }) });
  }
  return saved;
}

/** A weight's change as stored, ‖W‖² and ‖change‖². */
async function changeOf(files: Files, base: AnyBase, tuned: AnyBase, name: string) {
  const [own, other] = [findTensor(base.checkpoint, name), findTensor(tuned.checkpoint, name)];
  checkShape(name, own, other);
  const [before, delta] = [await readRows(files, own), await readRows(files, other)];
  let [size, norm] = [0, 0];
  for (let i = 0; i < delta.length; i++) {
    const value = before[i]!;
    delta[i]! -= value;
    size += value * value;
    norm += delta[i]! * delta[i]!;
  }
  return { delta, size: size || 1, norm };
}

/** The fewest of the factors' columns that keep the share `energy` of `norm`, and the share that they keep. */
function truncated({ loraA, loraB, rank }: Factors, norm: number, energy: number): { factors: Factors; kept: number } {
  const [inFeatures, outFeatures] = [loraA.length / rank, loraB.length / rank];
  const columns = transposed(loraB, outFeatures, rank);
  let [count, kept] = [0, 0];
  while (count < rank && (count === 0 || kept < energy * norm)) {
    for (const value of columns.subarray(count * outFeatures, (count + 1) * outFeatures)) kept += value * value;
    count++;
  }
  const loraBShort = transposed(columns.subarray(0, count * outFeatures), count, outFeatures);
  const factors = { loraA: loraA.slice(0, count * inFeatures), loraB: loraBShort, rank: count };
  return { factors, kept: Math.min(1, kept / norm) };
}

/** The weights that differ and are not in `taken`. */
async function leftOver(files: Files, base: AnyBase, tuned: AnyBase, taken: ReadonlySet<string>): Promise<Extracted["left"]> {
  const left: Extracted["left"] = [];
  for (const { name } of weightsIn(forwardGraph(base.config))) {
    if (taken.has(name)) continue;
    const { size, norm } = await changeOf(files, base, tuned, name);
    if (norm > 0) left.push({ name, change: Math.sqrt(norm / size) });
  }
  return left;
}

function checkShape(subject: string, { shape: own }: CheckpointTensor, { shape: other }: CheckpointTensor): void {
  if (own.join() === other.join()) return;
  throw new LowrankError("extract/shape", "the two models have different shapes", {
    subject,
    expected: `[${own.join(", ")}]`,
    got: `[${other.join(", ")}]`,
    next: "Give the base that the tuned model was made from.",
  });
}
