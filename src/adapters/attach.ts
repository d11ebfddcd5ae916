// An adapter beside a model: whether it fits, under which names, and what merging it changes.
import { LowrankError, nearest } from "../errors.ts";
import type { ModuleInfo } from "../models/module.ts";
import { shortestEndings } from "./match.ts";
import type { MergeTarget } from "./merge.ts";
import type { Adapter } from "./peft-files.ts";
import { savedWeights } from "./saved.ts";

/**
 * `adapter` under the names of a model with these modules: one that was written with an older release of Transformers has
 * other names for the same. Throws `adapter/*` that names the first module that the model lacks, or whose shape differs.
 */
export function adapterAgainst(given: Adapter, modules: readonly ModuleInfo[]): Adapter {
  const adapter = renamed(given, modules);
  const byPath = new Map(modules.map((module) => [module.path, module]));
  for (const { path, inFeatures, outFeatures } of adapter.modules) {
    const module = byPath.get(path);
    if (!module || module.kind === "embedding") {
      throw failure("no-module", "the adapter is for a module that the model does not have as a linear layer", {
        subject: path,
        expected: `one of the model's layers, such as ${nearest(path.slice(0, 256), byPath.keys()).join(", ")}`,
        got: module ? "an embedding" : "no such module",
        next: "Use the base model that the adapter was trained on.",
      });
    }
    if (module.inFeatures !== inFeatures || module.outFeatures !== outFeatures) {
      const expected = `the model's ${module.inFeatures} inputs and ${module.outFeatures} outputs`;
      throw otherShape(adapter, path, expected, `${inFeatures} inputs and ${outFeatures} outputs`);
    }
  }
  return withSavedInOrder(adapter, modules);
}

/** The adapter with its saved weights in the order of `modules`. It has those that its configuration saves, and no others. */
function withSavedInOrder(adapter: Adapter, modules: readonly ModuleInfo[]): Adapter {
  const expected = savedWeights(modules, adapter.config);
  const saved = adapter.saved ?? new Map<string, { shape: readonly number[] }>();
  for (const { name, shape } of expected) {
    const got = saved.get(name)?.shape;
    if (got?.join() === shape.join()) continue;
    if (got) throw otherShape(adapter, name, `[${shape.join(", ")}]`, `[${got.join(", ")}]`);
    throw failure("no-saved", "the adapter lacks a weight that its modules_to_save names", {
      subject: name,
      expected: expected.map((weight) => weight.name).join(", "),
      got: [...saved.keys()].join(", ") || "none",
      next: "The file is incomplete; save the adapter again.",
    });
  }
  const strange = [...saved.keys()].find((name) => !expected.some((weight) => weight.name === name));
  if (strange === undefined) {
    if (!adapter.saved) return adapter;
    return { ...adapter, saved: new Map(expected.map(({ name }) => [name, adapter.saved!.get(name)!])) };
  }
  throw failure("no-module", "the adapter holds a weight of a module that the model does not have", {
    subject: strange,
    expected: expected.map((weight) => weight.name).join(", ") || "no such weights",
    got: "no such module",
    next: "Use the base model that the adapter was trained on.",
  });
}

const otherShape = ({ config }: Adapter, subject: string, expected: string, got: string): LowrankError =>
  failure("other-base", "the adapter was trained on a model of another shape", {
    subject,
    expected,
    got,
    next: `Use the base model that the adapter was trained on${config.baseModelNameOrPath ? `: ${config.baseModelNameOrPath}` : ""}.`,
  });

/** The adapter with the model's own module paths where it has those of an older release; its configuration then names them. */
function renamed(adapter: Adapter, modules: readonly ModuleInfo[]): Adapter {
  const own = new Set(modules.map(({ path }) => path));
  const newer = new Map(
    modules.flatMap(({ path, olderPaths = [] }) => olderPaths.map((older): [string, string] => [older, path])),
  );
  if (!adapter.modules.some(({ path }) => !own.has(path) && newer.has(path))) return adapter;
  const nameOf = (path: string) => newer.get(path) ?? path;
  const adapted = adapter.modules.map((module) => ({ ...module, path: nameOf(module.path) }));
  const paths = adapted.map(({ path }) => path);
  const { rank, alpha } = adapter.config;
  const others = <Key extends "rank" | "alpha">(key: Key, usual: number) =>
    Object.fromEntries(adapted.filter((module) => module[key] !== usual).map((module) => [module.path, module[key]]));
  return {
    ...adapter,
    config: {
      ...adapter.config,
      targetModules: shortestEndings(paths, modules, { from: 1 }),
      excludeModules: null,
      layersToTransform: null,
      layersPattern: null,
      rankPattern: others("rank", rank),
      alphaPattern: others("alpha", alpha),
    },
    modules: adapted,
    tensors: new Map([...adapter.tensors].map(([path, factors]) => [nameOf(path), factors])),
  };
}

/**
 * What merging `adapter` into a model with these modules adds to which stored weight. `weightName` gives the stored name of
 * what the model calls `<path>.weight`.
 */
export function mergeTargets(
  adapter: Adapter,
  modules: readonly ModuleInfo[],
  weightName: (name: string) => string = (name) => name,
): MergeTarget[] {
  const fitted = adapterAgainst(adapter, modules);
  const conv1d = new Set(modules.filter(({ kind }) => kind === "conv1d").map(({ path }) => path));
  return fitted.modules.map(({ path, rank, scale }) => ({
    weightName: weightName(`${path}.weight`),
    ...fitted.tensors.get(path)!,
    rank,
    scale,
    fanInFanOut: conv1d.has(path),
  }));
}

/** The weights that merging `adapter` puts in the place of the base's, by stored name. */
export const mergeReplacements = (adapter: Adapter, weightName: (name: string) => string = (name) => name) =>
  new Map([...(adapter.saved ?? [])].map(([name, tensor]) => [weightName(name), tensor]));

const failure = (reason: string, message: string, facts: ConstructorParameters<typeof LowrankError>[2]) =>
  new LowrankError(`adapter/${reason}`, message, facts);
