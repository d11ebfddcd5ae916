// A graph whose linear layers all take an adapter as inputs of symbolic rank, so that changing adapters rebuilds nothing.

import { fuseAdditions } from "../graph/fuse.ts";
import { check, type Graph } from "../graph/graph.ts";
import { input } from "../graph/ops/leaves.ts";
import type { ModuleInfo } from "../models/module.ts";
import { modulesOf } from "../models/registry.ts";
import { float32, type Tensor } from "../tensor.ts";
import { inject, type LoraFactors, loraUpdate } from "./inject.ts";
import type { Adapter } from "./peft-files.ts";

const loraAName = (path: string) => `loraA.${path}`;
const loraBName = (path: string) => `loraB.${path}`;

/** `graph` with every linear layer adapted, and its linear layers. */
export function adaptable(graph: Graph): { graph: Graph; modules: ModuleInfo[] } {
  const modules = modulesOf(graph).filter(({ kind }) => kind !== "embedding");
  const factors = modules.map(({ path, inFeatures, outFeatures }): [string, LoraFactors] => {
    const rank = `rank.${path}`;
    const loraA = input(loraAName(path), "float32", [rank, inFeatures]);
    const loraB = input(loraBName(path), "float32", [outFeatures, rank]);
    return [path, { loraA, loraB, scale: 1 }];
  });
  return { graph: fuseAdditions(check(inject(graph, loraUpdate(graph, new Map(factors))))), modules };
}

/** The factors of each of `modules`, the scale in loraB; rank 0 where the adapter has none, which adds nothing. */
export function adapterFeeds(adapter: Adapter | null, modules: readonly ModuleInfo[]): Record<string, Tensor> {
  const adapted = new Map(adapter?.modules.map((module) => [module.path, module]));
  return Object.fromEntries(
    modules.flatMap(({ path, inFeatures, outFeatures }) => {
      const { rank, scale } = adapted.get(path) ?? { rank: 0, scale: 1 };
      const { loraA, loraB } = adapter?.tensors.get(path) ?? { loraA: new Float32Array(), loraB: new Float32Array() };
      return [
        [loraAName(path), float32([rank, inFeatures], loraA)],
        [loraBName(path), float32([outFeatures, rank], scale === 1 ? loraB : loraB.map((b) => b * scale))],
      ];
    }),
  );
}
