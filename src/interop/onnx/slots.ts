// Inputs of an exported graph for LoRA's factors, which do nothing where they are not fed: their default has rank 0.
import { adapt, type LayerTensors } from "../../adapters/inject.ts";
import { plainMethod } from "../../adapters/method-table.ts";
import { fuseAdditions } from "../../graph/fuse.ts";
import type { Value } from "../../graph/graph.ts";
import { input } from "../../graph/ops/leaves.ts";
import type { ModuleInfo } from "../../models/module.ts";
import { modulesOf } from "../../models/registry.ts";
import type { ExportGraph } from "./graphs.ts";

/** The names of a module's factors, those of PEFT's files: A [rank, in], and B [out, rank] with the scale in it. */
export function factorNames(path: string, isEmbedding = false): { loraA: string; loraB: string } {
  const name = (side: "A" | "B") => `${path}.${isEmbedding ? `lora_embedding_${side}` : `lora_${side}.weight`}`;
  return { loraA: name("A"), loraB: name("B") };
}

/** A module that has such inputs. */
export type Slot = Pick<ModuleInfo, "path" | "inFeatures" | "outFeatures"> & { isEmbedding: boolean };

const KINDS = new Set<ModuleInfo["kind"]>(["linear", "conv1d", "embedding"]);

/** The linear layers with a matrix of their own, and the embeddings, of these modules. */
export const slotsIn = (modules: readonly ModuleInfo[]): Slot[] =>
  modules
    .filter(({ kind }) => KINDS.has(kind))
    .map(({ path, inFeatures, outFeatures, kind }) => ({ path, inFeatures, outFeatures, isEmbedding: kind === "embedding" }));

/** The graph with an A and a B beside each linear layer and each embedding, which need not be fed. */
export function withFactorInputs({ graph, inputs }: ExportGraph): ExportGraph & { optional: Value[] } {
  const factors: Value[] = [];
  const beside = slotsIn(modulesOf(graph)).map(({ path, inFeatures, outFeatures, isEmbedding }): [string, LayerTensors] => {
    const names = factorNames(path, isEmbedding);
    const rank = `rank.${path}`;
    const loraA = input(names.loraA, "float32", [rank, inFeatures]);
    const loraB = input(names.loraB, "float32", [outFeatures, rank]);
    factors.push(loraA, loraB);
    return [path, { tensors: { loraA, loraB }, scale: 1 }];
  });
  const adapted = fuseAdditions(adapt(graph, plainMethod, new Map(beside)));
  return { graph: adapted, inputs: [...inputs, ...factors], optional: factors };
}
