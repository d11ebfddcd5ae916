// The layout of θ: the trained tensors of an adapter in one vector, by name, in the order of its modules and then of what it saves.
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import type { AdapterModule } from "./match.ts";
import type { ModuleTensors, TrainedTensor } from "./method.ts";
import { methodOf } from "./method-table.ts";
import { storedShape } from "./places.ts";
import type { SavedTensor, SavedWeight } from "./saved.ts";

/** What every key of an adapter's file begins with. */
export const KEY_PREFIX = "base_model.model.";

/** One tensor inside θ. `key` is its name in the saved file; groups may learn at different rates (LoRA+). */
export interface ThetaEntry {
  key: string;
  offset: number;
  shape: number[];
  group: TrainedTensor["group"];
}

/** A tensor of an adapted module, or a weight that is trained in full. */
export type LayoutEntry = ThetaEntry & ({ path: string; name: string } | { saved: string });

/** What an adapter trains. */
export interface Trained {
  config: LoraConfig;
  modules: readonly AdapterModule[];
  saved?: readonly SavedWeight[];
}

/** An adapter's tensors, by module path and name, and the weights it trains in full, by stored name. */
export interface TrainedValues {
  tensors: Map<string, ModuleTensors>;
  saved: Map<string, SavedTensor>;
}

/** The tensors of θ: those of each module in the order of the modules, then the saved weights. */
export function layoutOf({ config, modules, saved = [] }: Trained): LayoutEntry[] {
  const method = methodOf(config);
  let offset = 0;
  const placed = <T extends { shape: number[] }>(entry: T): T & { offset: number } => {
    const at = offset;
    offset += sizeOf(entry.shape);
    return { ...entry, offset: at };
  };
  const own = modules.flatMap((module) =>
    method.tensors(module, module.rank).map((tensor) => {
      const { path, keyPath = path } = module;
      const { name, key, group } = tensor;
      return placed({ key: `${KEY_PREFIX}${keyPath}.${key}`, shape: storedShape(tensor, module) as number[], group, path, name });
    }),
  );
  const whole = saved.map(({ name, shape }) =>
    placed({ key: `${KEY_PREFIX}${name}`, shape, group: "weight" as const, saved: name }),
  );
  return [...own, ...whole];
}

/** Length of θ. */
export const lengthOfTheta = (entries: readonly { shape: readonly number[] }[]): number =>
  entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0);

/** The part of θ that is an entry's tensor, not copied. */
export const partOf = (theta: Float32Array, { offset, shape }: ThetaEntry): Float32Array =>
  theta.subarray(offset, offset + sizeOf(shape));

/** An adapter's tensors inside `theta`, not copied. */
export function viewsOf(layout: readonly LayoutEntry[], theta: Float32Array): TrainedValues {
  const tensors = new Map<string, ModuleTensors>();
  const saved = new Map<string, SavedTensor>();
  for (const entry of layout) {
    const data = partOf(theta, entry);
    if ("saved" in entry) saved.set(entry.saved, { shape: entry.shape, data });
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
export const trainedBy = ({ config, modules, saved }: Omit<Trained, "saved"> & { saved?: TrainedValues["saved"] }): Trained => ({
  config,
  modules,
  saved: [...(saved ?? [])].map(([name, { shape }]) => ({ name, shape: [...shape] })),
});

/** The trained tensors of an adapter as one vector. */
export function thetaOf(adapter: Parameters<typeof trainedBy>[0] & { tensors: TrainedValues["tensors"] }): Float32Array {
  const layout = layoutOf(trainedBy(adapter));
  const theta = new Float32Array(lengthOfTheta(layout));
  for (const entry of layout) theta.set(valuesOf(adapter, entry)!, entry.offset);
  return theta;
}
