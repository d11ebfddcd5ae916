// The layout of θ: the trained tensors of an adapter in one vector, by name, in the order of its modules and then of what it saves.

import type { Dim } from "../graph/dims.ts";
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import { initializationOf } from "./initializations.ts";
import type { AdapterModule } from "./match.ts";
import type { ModuleShape, ModuleTensors, TensorGroup, TrainedTensor } from "./method.ts";
import { methodOf } from "./method-table.ts";
import { storedShape } from "./places.ts";
import { keysOf, type SavedTensor, type SavedWeight } from "./saved.ts";

/** What every key of an adapter's file begins with. */
export const KEY_PREFIX = "base_model.model.";

/** One tensor inside θ. `key` is its name in the saved file; groups may learn at different rates (LoRA+). */
export interface ThetaEntry {
  key: string;
  /** Other keys that the file has it under as well. */
  copies?: readonly string[];
  offset: number;
  shape: number[];
  group: TensorGroup;
  /** It stays as it is. Such entries lie behind those that are trained. */
  isConstant?: true;
  /** The module that it belongs to, and the scale of its update. */
  path?: string;
  scale?: number;
}

/** A tensor of an adapted module, or one that is trained beside the factors. */
export type LayoutEntry = ThetaEntry & ({ path: string; name: string } | { saved: string });

/** What an adapter trains. */
export interface Trained {
  config: LoraConfig;
  modules: readonly AdapterModule[];
  saved?: readonly SavedWeight[];
  /** Groups of tensors that stay as they are; first factors that are subtracted from the base always do. */
  constant?: readonly TensorGroup[];
}

/** An adapter's tensors, by module path and name, and what it trains beside them, by the name of the weight. */
export interface TrainedValues {
  tensors: Map<string, ModuleTensors>;
  saved: Map<string, SavedTensor>;
}

/**
 * The tensors of θ: those of each module in the order of the modules, then the saved weights, and behind all that is trained in the
 * same order what stays as it is.
 */
export function layoutOf({ config, modules, saved = [], constant = [] }: Trained): LayoutEntry[] {
  const own = modules.flatMap((module) =>
    moduleTensors(config, module, module.rank).map((tensor) => {
      const { path, keyPath = path, scale } = module;
      const { name, key, group } = tensor;
      return { key: `${KEY_PREFIX}${keyPath}.${key}`, shape: storedShape(tensor, module) as number[], group, path, scale, name };
    }),
  );
  const whole = saved.map((weight) => {
    const [key, ...copies] = keysOf(weight).map((end) => KEY_PREFIX + end);
    const { name, shape } = weight;
    return { key: key!, ...(copies.length > 0 && { copies }), shape, group: "weight" as const, saved: name };
  });
  const isConstant = ({ group }: { group: TensorGroup }) => group === "initial" || constant.includes(group);
  const all = [...own, ...whole];
  let offset = 0;
  return [...all.filter((entry) => !isConstant(entry)), ...all.filter(isConstant)].map((entry) => {
    const at = offset;
    offset += sizeOf(entry.shape);
    return { ...entry, offset: at, ...(isConstant(entry) && { isConstant: true as const }) };
  });
}

/** What is beside a module in training: what its method trains, and first factors that are subtracted from the base. */
function moduleTensors(config: LoraConfig, module: ModuleShape, rank: Dim): TrainedTensor[] {
  const own = methodOf(config).tensors(module, rank);
  if (module.isEmbedding || !initializationOf(config.initLoraWeights).fromWeight) return own;
  const initial = (name: string, key: string, shape: TrainedTensor["shape"]): TrainedTensor => ({
    name,
    key,
    shape,
    group: "initial",
  });
  const first = [
    initial("initialA", "initial_A.weight", [rank, module.inFeatures]),
    initial("initialB", "initial_B.weight", [module.outFeatures, rank]),
  ];
  return [...own, ...first];
}

/** The tensors that an adapter's file has. */
export const storedLayout = ({ config, modules, saved }: Trained): LayoutEntry[] =>
  layoutOf({ config, modules, saved }).filter(({ group }) => group !== "initial");

/** Those that are trained. */
export const trainedEntries = <E extends ThetaEntry>(entries: readonly E[]): E[] =>
  entries.filter(({ isConstant }) => !isConstant);

/** Length of θ, or of a part of it. */
export const lengthOfTheta = (entries: readonly { shape: readonly number[] }[]): number =>
  entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0);

/** The part of θ that is an entry's tensor, not copied. */
export const partOf = (theta: Float32Array, { offset, shape }: ThetaEntry): Float32Array =>
  theta.subarray(offset, offset + sizeOf(shape));

/** An adapter's tensors inside `theta`, not copied. */
export function viewsOf(trained: Trained, theta: Float32Array): TrainedValues {
  const beside = new Map(trained.saved?.map(({ name, ...weight }) => [name, weight]));
  const tensors = new Map<string, ModuleTensors>();
  const saved = new Map<string, SavedTensor>();
  for (const entry of layoutOf(trained)) {
    const data = partOf(theta, entry);
    if ("saved" in entry) saved.set(entry.saved, { ...beside.get(entry.saved)!, data });
    else tensors.set(entry.path, { ...tensors.get(entry.path), [entry.name]: data } as ModuleTensors);
  }
  return { tensors, saved };
}

/** The values of an entry in an adapter; undefined if it lacks them. */
export const valuesOf = (
  adapter: { tensors: TrainedValues["tensors"]; saved?: TrainedValues["saved"] },
  entry: LayoutEntry,
): Float32Array | undefined =>
  "saved" in entry ? adapter.saved?.get(entry.saved)?.data : adapter.tensors.get(entry.path)?.[entry.name];

/** What an adapter trains, without its values. */
export const trainedBy = ({
  config,
  modules,
  saved,
}: Omit<Trained, "saved"> & { saved?: TrainedValues["saved"] }): Trained & { saved: SavedWeight[] } => ({
  config,
  modules,
  saved: [...(saved ?? [])].map(([name, { data: _, shape, ...weight }]) => ({ name, shape: [...shape], ...weight })),
});

/** The tensors of an adapter as one vector. */
export function thetaOf(
  adapter: Parameters<typeof trainedBy>[0] & { tensors: TrainedValues["tensors"] },
  layout: readonly LayoutEntry[] = layoutOf(trainedBy(adapter)),
): Float32Array {
  const theta = new Float32Array(lengthOfTheta(layout));
  for (const entry of layout) theta.set(valuesOf(adapter, entry)!, entry.offset);
  return theta;
}
