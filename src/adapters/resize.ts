// An adapter at other ranks: the best approximation of each module's update, and what it costs.
import { LowrankError } from "../errors.ts";
import type { LoraConfig } from "./config.ts";
import { type AdapterModule, patternsOf } from "./match.ts";
import type { ModuleTensors } from "./method.ts";
import { methodOf } from "./method-table.ts";
import type { Adapter } from "./peft-files.ts";
import { refuseParameters } from "./places.ts";
import { checkPlain } from "./residual.ts";
import { rankAtEnergy } from "./spectrum.ts";
import { type Factors, truncateProduct } from "./svd.ts";

/** One of the two. */
export interface ResizeOptions {
  /** The rank of each module, of those that have a higher one. */
  rank?: number;
  /** The share of an update's energy, the sum of the squares of its singular values, that its new rank keeps: above 0, at most 1. */
  energy?: number;
}

export interface ResizedModule {
  path: string;
  oldRank: number;
  rank: number;
  /** ‖new − old‖ / ‖old‖ of the update, in Frobenius norms; 0 if there was no update. */
  error: number;
}

export interface Resized {
  adapter: Adapter;
  modules: ResizedModule[];
  /** Of all updates together. */
  error: number;
}

/** The adapter with each module's update truncated. What its method has beside A and B stays. Errors: `resize/*`. */
export function truncateAdapter(adapter: Adapter, options: ResizeOptions): Resized {
  const { rank, energy } = options;
  checkOptions(options);
  checkPlain(adapter);
  refuseParameters(adapter.config, "resized");
  let [lost, all] = [0, 0];
  const resized = adapter.modules.map((module) => {
    const tensors = adapter.tensors.get(module.path)!;
    const { values, truncated } = truncateProduct({ ...tensors, rank: module.rank });
    const factors = truncated(energy === undefined ? rank! : rankAtEnergy(values, energy));
    const [whole, rest] = [squares(values, 0), squares(values, factors.rank)];
    lost += module.scale ** 2 * rest;
    all += module.scale ** 2 * whole;
    const loraB = factors.loraB.map((value) => value * module.scale);
    const others = scaledBeside(adapter.config, module, tensors);
    const error = whole === 0 ? 0 : Math.sqrt(rest / whole);
    return { ...factors, loraB, module, tensors: { ...tensors, ...others }, error };
  });
  return {
    adapter: {
      ...adapter,
      ...withFactors(adapter.config, resized),
      tensors: new Map(
        resized.map(({ module, tensors, loraA, loraB }): [string, ModuleTensors] => [module.path, { ...tensors, loraA, loraB }]),
      ),
    },
    modules: resized.map(({ module, rank, error }) => ({ path: module.path, oldRank: module.rank, rank, error })),
    error: all === 0 ? 0 : Math.sqrt(lost / all),
  };
}

/** What a method has beside A and B that the scale multiplies, times it. */
function scaledBeside(config: LoraConfig, module: AdapterModule, tensors: ModuleTensors): Record<string, Float32Array> {
  const scaled = methodOf(config)
    .tensors(module, module.rank)
    .filter((tensor) => tensor.scaled && tensor.name !== "loraB");
  return Object.fromEntries(scaled.map(({ name }) => [name, tensors[name]!.map((value) => value * module.scale)]));
}

const squares = (values: readonly number[], from: number): number =>
  values.slice(from).reduce((sum, value) => sum + value * value, 0);

/** The configuration and the modules of an adapter with other factors, whose updates are B·A: alpha is the rank, so that the scale is 1. */
export function withFactors(
  config: LoraConfig,
  given: readonly (Pick<Factors, "rank"> & { module: AdapterModule })[],
): { config: LoraConfig; modules: AdapterModule[] } {
  const counts = new Map<number, number>();
  for (const { rank } of given) counts.set(rank, (counts.get(rank) ?? 0) + 1);
  const [usual] = [...counts].reduce((most, each) =>
    each[1] > most[1] || (each[1] === most[1] && each[0] > most[0]) ? each : most,
  );
  const modules = given.map(({ module, rank }) => ({ ...module, rank, alpha: rank, scale: 1 }));
  const ranks = { rank: usual, alpha: usual };
  return {
    config: { ...config, ...ranks, ...patternsOf(modules, ranks), useRslora: false, initLoraWeights: true },
    modules,
  };
}

function checkOptions({ rank, energy }: ResizeOptions): void {
  const refuse = (subject: string, expected: string, got: string) => {
    const next = "Give a rank (--rank 8), or the energy to keep (--energy 0.99).";
    throw new LowrankError("resize/option", "the new rank cannot be chosen by this", { subject, expected, got, next });
  };
  if ((rank === undefined) === (energy === undefined)) {
    refuse("rank, energy", "one of the two", rank === undefined ? "neither" : "both");
  }
  if (rank !== undefined && !(Number.isSafeInteger(rank) && rank >= 1))
    refuse("rank", "a whole number of at least 1", String(rank));
  if (energy !== undefined && !(energy > 0 && energy <= 1)) refuse("energy", "a number above 0 and at most 1", String(energy));
}
