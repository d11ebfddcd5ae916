// What formats can say of an adapter: refusals by name, one scale for all modules, and an adapter from the modules of a file.
import { type LoraConfig, loraConfig } from "../../adapters/config.ts";
import { type AdapterModule, patternsOf, shortestEndings } from "../../adapters/match.ts";
import type { ModuleTensors } from "../../adapters/method.ts";
import { methodOf, plainMethod } from "../../adapters/method-table.ts";
import { type Adapter, MAX_ADAPTER_MODULES, MAX_ADAPTER_RANK } from "../../adapters/peft-files.ts";
import { isResidual } from "../../adapters/residual.ts";
import { type Failure, LowrankError } from "../../errors.ts";
import { bytesOf } from "../../formats/dtypes.ts";
import { allFinite } from "../../formats/float.ts";
import type { AnyBase } from "../../models/base.ts";
import type { AdapterLimits } from "./format.ts";

export function refuse(reason: string, message: string, facts: Failure): never {
  throw new LowrankError(`convert/${reason}`, message, facts);
}

/** The base, for formats whose names are its own. */
export function needBase(base: AnyBase | null, title: string): AnyBase {
  return (
    base ??
    refuse("base", "the names of this format depend on the model", {
      subject: title,
      expected: "the base that the adapter is for",
      next: "Give it with --base (base).",
    })
  );
}

const MERGE = "Merge the adapter into its base (lowrank merge), and convert the merged model.";

/** What to do with an adapter of a weight that the model uses twice. */
export const UNTIE =
  "Merge the adapter into its base with an output layer of its own (lowrank merge --untie), and convert the merged model.";

/** Refuses what a format has no place for. */
export const cannotSay = (title: string, what: string, subject?: string, next = MERGE): never =>
  refuse("unsayable", `${title} has no place for ${what}`, { subject, next });

/** Fields of a configuration whose effect lies in the modules, or that only say how an adapter was trained. */
const CARRIED = new Set<keyof LoraConfig>([
  ...(["rank", "alpha", "rankPattern", "alphaPattern", "useRslora", "targetModules", "excludeModules"] as const),
  ...(["layersToTransform", "layersPattern", "fanInFanOut", "dropout", "taskType", "baseModelNameOrPath"] as const),
  ...(["revision", "inferenceMode", "autoMapping", "evaConfig"] as const),
]);

const isEmpty = (value: unknown): boolean => value === null || (typeof value === "object" && Object.keys(value).length === 0);

/** Refuses all that an adapter has beside factors of its modules; of methods the plain one is allowed, and those of `methodFields`. */
export function checkSayable({ config, modules, saved }: Adapter, title: string, methodFields: readonly string[] = []): void {
  const convolution = modules.find(({ kernel }) => kernel);
  if (convolution) cannotSay(title, "convolutions", convolution.path);
  const [weight] = saved?.keys() ?? [];
  if (weight !== undefined) cannotSay(title, "weights that are trained in full (modules_to_save)", weight);
  const usual = loraConfig();
  for (const [field, value] of Object.entries(config) as [keyof LoraConfig, unknown][]) {
    const isInitial = field === "initLoraWeights" && !isResidual({ config });
    if (CARRIED.has(field) || isInitial || methodFields.includes(field)) continue;
    if (isEmpty(value) && isEmpty(usual[field])) continue;
    if (JSON.stringify(value) !== JSON.stringify(usual[field])) cannotSay(title, `${field} ${JSON.stringify(value)}`, field);
  }
  const method = methodOf(config);
  if (method !== plainMethod && methodFields.length === 0) cannotSay(title, method.title, method.title);
}

/** `value` times `factor`; refused where that leaves float32. */
export function scaledBy(values: Float32Array, factor: number, path: string): Float32Array {
  if (factor === 1) return values;
  const scaled = values.map((value) => value * factor);
  if (scaled.every(Number.isFinite)) return scaled;
  return refuse("scale", "a factor times its module's scale is too large for float32", {
    subject: path,
    got: `scale factor ${factor}`,
    next: "Check the adapter's alpha: it is far from any that works.",
  });
}

/** The value that most modules have, but for 0; 1 if all have 0. */
export function mostCommon(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) if (value !== 0) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((most, each) => (each[1] > most[1] ? each : most), [1, 0])[0];
}

/** A module as a file has it. A is [rank, in], B is [out, rank]. */
export interface ReadModule {
  path: string;
  isEmbedding?: boolean;
  alpha: number;
  rank: number;
  inFeatures: number;
  outFeatures: number;
  tensors: ModuleTensors;
}

/** Refuses more modules, or a higher rank, than the limits allow. Called before values are read. */
export function checkLimits(subject: string, modules: number, rank: number, limits: AdapterLimits = {}): void {
  const { maxModules = MAX_ADAPTER_MODULES, maxRank = MAX_ADAPTER_RANK } = limits;
  const over = modules > maxModules ? `${modules} modules` : rank > maxRank ? `rank ${rank}` : null;
  if (over === null) return;
  refuse("limit", "the adapter is larger than the limits allow", {
    subject,
    expected: `at most ${maxModules} modules and rank ${maxRank}`,
    got: over,
    next: "Use another adapter, or raise the limit where you trust this one (adapterLimits of the platform).",
  });
}

/** An adapter of a base, whose scale is alpha / rank of each module, with the configuration that PEFT reads. */
export function adapterOf(base: AnyBase, read: readonly ReadModule[], fields: Partial<LoraConfig> = {}): Adapter {
  const damaged = read.find(({ tensors }) => Object.values(tensors).some((values) => !allFinite(bytesOf(values), "float32")));
  if (damaged) {
    const next = "The training that made it diverged, or the file is damaged.";
    refuse("file", "a factor holds a value that is not finite", { subject: damaged.path, next });
  }
  const [rank, alpha] = [mostCommon(read.map((one) => one.rank)), mostCommon(read.map((one) => one.alpha))];
  const paths = read.map(({ path }) => path);
  const kinds = new Map(base.modules.map(({ path, kind }) => [path, kind]));
  const isConv1d = paths.some((path) => kinds.get(path) === "conv1d");
  const config = loraConfig({
    ...{ rank, alpha },
    ...patternsOf(read, { rank, alpha }),
    targetModules: shortestEndings(paths, base.modules, { from: 1 }),
    fanInFanOut: isConv1d,
    taskType: base.config.head === "lm" ? "CAUSAL_LM" : null,
    baseModelNameOrPath: base.checkpoint.folder,
    inferenceMode: true,
    ...fields,
  });
  const modules = read.map(({ tensors: _, isEmbedding, ...one }): AdapterModule => {
    return { ...one, scale: one.alpha / one.rank, ...(isEmbedding && { isEmbedding }) };
  });
  return { config, modules, tensors: new Map(read.map(({ path, tensors }) => [path, tensors])) };
}
