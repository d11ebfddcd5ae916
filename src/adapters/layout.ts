// The layout of θ: the trained tensors of an adapter in one vector, by name, in the order of its modules and then of what it saves.
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import type { AdapterModule } from "./match.ts";
import type { ModuleTensors, TrainedTensor } from "./method.ts";
import { methodOf } from "./method-table.ts";
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
  group: TrainedTensor["group"];
}

/** A tensor of an adapted module, or one that is trained beside the factors. */
export type LayoutEntry = ThetaEntry & ({ path: string; name: string } | { saved: string });

/** What an adapter trains. */
export interface Trained {
  config: LoraConfig;
  modules: readonly AdapterModule[];
  saved?: readonly SavedWeight[];
}

/** An adapter's tensors, by module path and name, and what it trains beside them, by the name of the weight. */
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
    method.tensors(module, module.rank).map(({ name, key, shape, group }) => {
      const { path } = module;
      return placed({ key: `${KEY_PREFIX}${path}.${key}`, shape: shape as number[], group, path, name });
    }),
  );
  const beside = saved.map((weight) => {
    const [key, ...copies] = keysOf(weight).map((end) => KEY_PREFIX + end);
    return placed({
      key: key!,
      ...(copies.length > 0 && { copies }),
      shape: weight.shape,
      group: "weight" as const,
      saved: weight.name,
    });
  });
  return [...own, ...beside];
}

/** Length of θ. */
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
}: Omit<Trained, "saved"> & { saved?: TrainedValues["saved"] }): Required<Trained> => ({
  config,
  modules,
  saved: [...(saved ?? [])].map(([name, { data: _, shape, ...weight }]) => ({ name, shape: [...shape], ...weight })),
});

/** The trained tensors of an adapter as one vector. */
export function thetaOf(adapter: Parameters<typeof trainedBy>[0] & { tensors: TrainedValues["tensors"] }): Float32Array {
  const layout = layoutOf(trainedBy(adapter));
  const theta = new Float32Array(lengthOfTheta(layout));
  for (const entry of layout) theta.set(valuesOf(adapter, entry)!, entry.offset);
  return theta;
}
