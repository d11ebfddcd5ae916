// Adapters of Transformers 4, where each expert is three linear layers: their factors as those of the parameters that experts are in
// Transformers 5. Follows PEFT 0.21.2's transformers_weight_conversion.py.
import { LowrankError } from "../errors.ts";
import type { ExpertPart, ModuleInfo } from "../models/module.ts";
import { type AdapterModule, patternsOf, shortestEndings } from "./match.ts";
import type { ModuleTensors } from "./method.ts";
import { keyPathOf, parameterName } from "./parameters.ts";
import type { Adapter } from "./peft-files.ts";
import { placeOf } from "./places.ts";

/** A layer of one expert that the adapter is on. */
interface Found {
  part: ExpertPart;
  module: AdapterModule;
}

const layerOf = (weight: string): string => weight.replace(/\.weight$/, "");

/**
 * `adapter` with experts and routers under the names of `modules`, if it has them under those of their weights. An expert's two layers in
 * one parameter become one of the sum of their ranks: their As above each other, their Bs in the blocks of a diagonal.
 */
export function withFusedExperts(adapter: Adapter, modules: readonly ModuleInfo[]): Adapter {
  const given = new Map(adapter.modules.map((module) => [module.path, module]));
  const fused: { info: ModuleInfo; found: Found[] }[] = [];
  const routers: { info: ModuleInfo; module: AdapterModule }[] = [];
  for (const info of modules) {
    const found = (info.parts ?? []).flatMap((part): Found[] => {
      const module = given.get(layerOf(part.weight));
      return module ? [{ part, module }] : [];
    });
    if (found.length > 0) fused.push({ info, found });
    const router = info.isParameter && info.weight ? given.get(layerOf(info.weight)) : undefined;
    if (router) routers.push({ info, module: router });
  }
  if (fused.length + routers.length === 0) return adapter;

  const paths = new Set(fused.map(({ info }) => info.path));
  const replaced = new Set([...fused.flatMap(({ found }) => found), ...routers].map(({ module }) => module.path));
  const kept = adapter.modules.filter(({ path }) => !replaced.has(path));
  const tensors = new Map([...adapter.tensors].filter(([path]) => !replaced.has(path)));
  const renamed = routers.map(({ info, module }): AdapterModule => {
    const own = adapter.tensors.get(module.path);
    if (own) tensors.set(info.path, own);
    return { ...module, path: info.path };
  });
  const whole = fused.map(({ info, found }): AdapterModule => {
    const module = fusedModule(info, found, adapter);
    if (adapter.tensors.size > 0) tensors.set(info.path, fusedFactors(info, found, adapter.tensors));
    return { ...module, keyPath: keyPathOf(info.path, paths) };
  });
  const parameters = [...fused, ...routers].map(({ info }) => info);
  const names = new Map(parameters.map((info) => [info.path, parameterName(info)]));
  const all = [...kept, ...renamed, ...whole];
  const named = all.map((one) => ({ ...one, path: names.get(one.path) ?? one.path }));
  const { config } = adapter;
  return {
    ...adapter,
    config: {
      ...config,
      targetModules: shortestEndings(
        kept.map(({ path }) => path),
        modules,
        { from: 1 },
      ),
      targetParameters: [...(config.targetParameters ?? []), ...names.values()],
      excludeModules: null,
      layersToTransform: null,
      layersPattern: null,
      ...patternsOf(named, config),
    },
    modules: all,
    tensors,
  };
}

/** Which halves of a parameter's rows are adapted; of one that has none, all of them. */
const halvesOf = (found: readonly Found[]): (0 | 1 | undefined)[] => [...new Set(found.map(({ part }) => part.half))].sort();

function fusedModule(info: ModuleInfo, found: readonly Found[], { config }: Adapter): AdapterModule {
  const [{ module: first }] = found as [Found];
  const halves = halvesOf(found).length;
  const isEven = found.every(({ module }) => module.rank === first.rank && module.scale === first.scale);
  if (!isEven || found.length !== info.experts! * halves) {
    throw new LowrankError("lora/unsupported", "The experts of a layer are not adapted alike.", {
      subject: info.path,
      expected: `an adapter on each of ${info.experts} experts, of one rank and alpha`,
      got: `${found.length} layers, of ranks ${[...new Set(found.map(({ module }) => module.rank))].join(", ")}`,
      next: "Merge the adapter into its base with an older release of Transformers and PEFT.",
    });
  }
  const rank = halves * first.rank;
  const alpha = first.scale * (config.useRslora ? Math.sqrt(rank) : rank);
  const { path, inFeatures, outFeatures } = info;
  return { path, ...placeOf(info), rank, alpha, scale: first.scale, inFeatures, outFeatures };
}

/** The factors as PEFT stores them (storedShape in places.ts). */
function fusedFactors(info: ModuleInfo, found: readonly Found[], tensors: Adapter["tensors"]): ModuleTensors {
  const { experts = 1, inFeatures, outFeatures } = info;
  const halves = halvesOf(found);
  const ownRank = found[0]!.module.rank;
  const rank = halves.length * ownRank;
  const loraA = new Float32Array(experts * rank * inFeatures);
  const loraB = new Float32Array(outFeatures * rank * experts);
  for (const { part, module } of found) {
    const own = tensors.get(module.path)!;
    const before = halves.indexOf(part.half) * ownRank;
    loraA.set(own.loraA, (part.expert * rank + before) * inFeatures);
    const firstRow = part.half === 1 ? outFeatures / 2 : 0;
    for (let row = 0; row < module.outFeatures; row++)
      for (let k = 0; k < ownRank; k++)
        loraB[((firstRow + row) * rank + before + k) * experts + part.expert] = own.loraB[row * ownRank + k]!;
  }
  return { loraA, loraB };
}
