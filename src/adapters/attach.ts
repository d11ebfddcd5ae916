// An adapter and a base: whether one was made for the other, under which names it fits, and what merging it changes.
import { LowrankError, nearest } from "../errors.ts";
import { type AnyBase, forAdapter, withLayersOf } from "../models/base.ts";
import { isMadeFor } from "../models/fingerprint.ts";
import type { ModuleInfo } from "../models/module.ts";
import { patternsOf, shortestEndings } from "./match.ts";
import { type MergeTarget, weightTargets } from "./merge.ts";
import { methodOf } from "./method-table.ts";
import { withFusedExperts } from "./older-experts.ts";
import { targetedParameters } from "./parameters.ts";
import { type Adapter, describedBy, failure, type GivenAdapter } from "./peft-files.ts";
import { checkGated, expertFactors, placeName, placeOf } from "./places.ts";
import { checkPlain, withoutResidual } from "./residual.ts";
import { type SavedTensor, savedWeights } from "./saved.ts";

/**
 * The base with the classes of `adapter`, and the adapter under the base's names. Throws `adapter/*` that names the first module that
 * the base lacks or whose shape differs, and `adapter/other-base` for one that says that it was made for another base, unless
 * `anyBase` is true; PEFT's adapters say nothing, and pass. An adapter on the disk is read when it fits. One that is for a reduced base
 * (PiSSA, OLoRA) becomes the plain adapter of this base that it stands for.
 */
export async function attach<B extends AnyBase>(
  opened: B,
  given: GivenAdapter,
  { anyBase = false }: { anyBase?: boolean } = {},
): Promise<{ base: B; adapter: Adapter }> {
  const described = describedBy(given);
  const base = forAdapter(withLayersOf(opened, described.config.layerReplication), described) as B;
  const adapter = fitted(described, base.modules);
  if (anyBase || (await isMadeFor(base, adapter.baseFingerprint)) !== false)
    return { base, adapter: await withoutResidual(base, "read" in given ? fitted(await given.read(), base.modules) : adapter) };
  throw failure("other-base", "the adapter was made for another base: same shapes, other weights or settings", {
    subject: base.checkpoint.folder,
    expected: `${adapter.config.baseModelNameOrPath ?? "a base that the adapter does not name"}, fingerprint ${adapter.baseFingerprint}`,
    got: `${base.checkpoint.folder}, fingerprint ${await base.fingerprint()}`,
    next: "Use the base that the adapter was trained on, or allow any base of its shape (--any-base, anyBase).",
  });
}

/**
 * `adapter` under the names of a model with these modules: one that was written with an older release of Transformers has
 * other names for the same. Throws `adapter/*` that names the first module that the model lacks, or whose shape differs, and
 * `adapter/residual` for one that `attach` has to make plain first.
 */
export const fitAdapter = (given: Adapter, modules: readonly ModuleInfo[]): Adapter => fitted(checkPlain(given), modules);

function fitted(given: Adapter, modules: readonly ModuleInfo[]): Adapter {
  const adapter = renamed(withFusedExperts(given, modules), modules);
  const byPath = new Map(modules.filter(({ kind }) => kind !== "other").map((module) => [module.path, module]));
  for (const own of adapter.modules) {
    const { path, inFeatures, outFeatures } = own;
    const module = byPath.get(path);
    if (!module || placeName(placeOf(module)) !== placeName(own)) {
      throw failure("no-module", "the adapter is for a module that the model does not have", {
        subject: path,
        expected: `one of the model's layers, such as ${nearest(path.slice(0, 256), byPath.keys()).join(", ")}`,
        got: module ? `${placeName(placeOf(module))}, not ${placeName(own)}` : "no such module",
        next: "Use the base model that the adapter was trained on.",
      });
    }
    if (module.inFeatures !== inFeatures || module.outFeatures !== outFeatures) {
      const expected = `the model's ${module.inFeatures} inputs and ${module.outFeatures} outputs`;
      throw otherShape(adapter, path, expected, `${inFeatures} inputs and ${outFeatures} outputs`);
    }
  }
  checkGated(
    methodOf(adapter.config),
    adapter.modules.map(({ path }) => byPath.get(path)!),
  );
  for (const [name, { shape }] of adapter.frozen ?? []) {
    const { kind, inFeatures, outFeatures } = byPath.get(name.replace(/\.[^.]+$/, ""))!;
    const weight = kind === "linear" ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
    checkShape(adapter, name, shape, name.endsWith(".bias") ? [outFeatures] : weight);
  }
  return withSavedInOrder(adapter, modules);
}

/** The adapter with its saved weights in the order of `modules`. It has those that its configuration saves, and no others. */
function withSavedInOrder(adapter: Adapter, modules: readonly ModuleInfo[]): Adapter {
  const own = savedWeights(modules, adapter.config, adapter.modules);
  const names = own.map(({ name }) => name);
  const expected = names.join(", ") || "no such weights";
  const saved = own.map(({ name, shape, ...weight }): [string, SavedTensor] => {
    const tensor = adapter.saved?.get(name);
    if (!tensor) {
      const got = [...(adapter.saved?.keys() ?? [])].join(", ") || "none";
      const facts = { subject: name, expected, got, next: "The file is incomplete; save the adapter again." };
      throw failure("no-saved", "the adapter lacks a weight that its configuration trains", facts);
    }
    checkShape(adapter, name, tensor.shape, shape);
    return [name, { shape, ...weight, data: tensor.data }];
  });
  const subject = [...(adapter.saved?.keys() ?? [])].find((name) => !names.includes(name));
  if (subject === undefined) return adapter.saved ? { ...adapter, saved: new Map(saved) } : adapter;
  const facts = { subject, expected, got: "no such module", next: "Use the base model that the adapter was trained on." };
  throw failure("no-module", "the adapter holds a weight of a module that the model does not have", facts);
}

function checkShape(adapter: Adapter, name: string, got: readonly number[], expected: readonly number[]): void {
  if (got.join() !== expected.join()) throw otherShape(adapter, name, `[${expected.join(", ")}]`, `[${got.join(", ")}]`);
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
  const weightOf = (name: string) => name.replace(/^(.*)(\.[^.]+)$/, (_, path: string, end: string) => nameOf(path) + end);
  const adapted = adapter.modules.map((module) => ({ ...module, path: nameOf(module.path) }));
  const paths = adapted.map(({ path }) => path);
  const parameters = new Set(targetedParameters(adapter.config, modules).map(({ path }) => path));
  return {
    ...adapter,
    config: {
      ...adapter.config,
      targetModules: shortestEndings(
        paths.filter((path) => !parameters.has(path)),
        modules,
        { from: 1 },
      ),
      excludeModules: null,
      layersToTransform: null,
      layersPattern: null,
      ...patternsOf(adapted, adapter.config),
    },
    modules: adapted,
    tensors: new Map([...adapter.tensors].map(([path, factors]) => [nameOf(path), factors])),
    ...(adapter.saved && { saved: new Map([...adapter.saved].map(([name, weight]) => [weightOf(name), weight])) }),
    ...(adapter.frozen && { frozen: new Map([...adapter.frozen].map(([name, weight]) => [weightOf(name), weight])) }),
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
  const { layerReplication } = adapter.config;
  const { title, noMerge } = methodOf(adapter.config);
  if (noMerge) {
    throw new LowrankError("merge/method", `an adapter of ${title} can't be merged: ${noMerge}`, {
      expected: "an adapter of another method, as in PEFT",
      got: title,
      next: "Use the adapter without merging it.",
    });
  }
  if (layerReplication) {
    throw new LowrankError(
      "merge/shared-layers",
      "layers of the base that are used again can't each be merged: they share weights",
      {
        subject: "layer_replication",
        expected: "an adapter on the base's own layers",
        got: JSON.stringify(layerReplication),
        next: "Use the adapter without merging it.",
      },
    );
  }
  const fitted = fitAdapter(adapter, modules);
  const { mergeBias } = methodOf(fitted.config);
  const weights = weightTargets(fitted, modules, weightName).values();
  const experts = expertTargets(fitted, modules, weightName);
  const hasBias = new Map(modules.map((module) => [module.path, module.hasBias]));
  const biases = fitted.modules.flatMap(({ path, scale }): MergeTarget[] => {
    const bias = mergeBias?.(fitted.tensors.get(path)!);
    if (bias && !hasBias.get(path)) {
      throw new LowrankError("merge/no-bias", "the adapter adds a bias to a layer that has none", {
        subject: path,
        expected: "layers with biases, as PEFT needs them to merge",
        got: "none in the base",
        next: "Use the adapter without merging it.",
      });
    }
    return bias ? [{ weightName: weightName(`${path}.bias`), loraA: Float32Array.of(1), loraB: bias, rank: 1, scale }] : [];
  });
  return [...weights, ...experts, ...biases];
}

/**
 * What merging `adapter` puts in the place of the base's weights or their rows, by stored name. `weightName` of a tied weight is that of
 * the one which is stored (`ownName`).
 */
export function mergeReplacements(
  adapter: Adapter,
  modules: readonly ModuleInfo[],
  weightName: (name: string) => string = (name) => name,
): Map<string, SavedTensor> {
  const { saved = new Map<string, SavedTensor>() } = fitAdapter(adapter, modules);
  return new Map(
    [...saved].flatMap(([name, tensor]) => [name, ...(tensor.tied ?? [])].map((one) => [weightName(one), tensor] as const)),
  );
}

/** The update of each expert's weights. */
function expertTargets(
  { modules: adapted, tensors }: Adapter,
  modules: readonly ModuleInfo[],
  weightName: (name: string) => string,
): MergeTarget[] {
  const byPath = new Map(modules.map((module) => [module.path, module]));
  return adapted.flatMap((module) =>
    (byPath.get(module.path)?.parts ?? []).map((part): MergeTarget => {
      const factors = expertFactors(tensors.get(module.path)!, module, part);
      return { weightName: weightName(part.weight), ...factors, rank: module.rank, scale: module.scale };
    }),
  );
}
