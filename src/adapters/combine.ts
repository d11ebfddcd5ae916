// Several adapters of one base made one, as PEFT 0.21.2's add_weighted_adapter makes it. What differs is in docs/combine.md.
import { type Failure, LowrankError } from "../errors.ts";
import { purpose, uniform } from "../random.ts";
import { type CombinationOptions, type CombinationType, combinations, combinationTypes, type Part } from "./combinations.ts";
import type { LoraConfig } from "./config.ts";
import { type AdapterModule, isAllLinear } from "./match.ts";
import type { ModuleTensors } from "./method.ts";
import { methodOf, plainMethod } from "./method-table.ts";
import type { Adapter } from "./peft-files.ts";
import { placeName, refuseParameters } from "./places.ts";
import { checkPlain } from "./residual.ts";
import { withFactors } from "./resize.ts";
import { trainsClassifier } from "./saved.ts";

export const DEFAULT_SEED = 42;

export interface CombineOptions {
  /** How much each adapter counts, in their order; negative to subtract. Default: 1 each. */
  weights?: readonly number[];
  /** Default: svd, as in PEFT. A single adapter is combined as linear does, whatever is given. */
  combinationType?: CombinationType;
  /** Rank of the result of the svd types. Default: the largest of the adapters' ranks. */
  svdRank?: number;
  /** The share of elements that ties, dare and magnitude_prune keep, above 0 and at most 1; they need it. */
  density?: number;
  /** What elects a sign in the ties types. Default: total. */
  majoritySignMethod?: CombinationOptions["majoritySignMethod"];
  /** What dare draws the elements by that it keeps. Default: 42. */
  seed?: number;
  /** Combine adapters that say that they were made for different bases. */
  anyBase?: boolean;
}

/** The sum of `adapters` by a combination type: a module takes part with the adapters that have it. Errors: `combine/*`. */
export function combine(adapters: readonly Adapter[], options: CombineOptions = {}): Adapter {
  const { weights = adapters.map(() => 1), combinationType = "svd", seed = DEFAULT_SEED } = options;
  checkOptions(adapters.length, weights, combinationType, options);
  for (const adapter of adapters) {
    checkMethod(checkPlain(adapter).config);
    refuseParameters(adapter.config, "combined");
  }
  if (!options.anyBase) checkBases(adapters);
  checkLayers(adapters);
  checkHeads(adapters);
  const { combine: combineParts, needsEqualRanks } = combinations[adapters.length === 1 ? "linear" : combinationType];
  const ranks = adapters.map(({ config }) => Math.max(config.rank, ...Object.values(config.rankPattern)));
  if (needsEqualRanks) checkRanks(ranks);
  const given = {
    density: options.density ?? 1,
    majoritySignMethod: options.majoritySignMethod ?? "total",
    rank: options.svdRank ?? Math.max(...ranks),
  } as const;

  const byPath = adapters.map((adapter) => new Map(adapter.modules.map((module) => [module.path, module])));
  const modules = new Map(byPath.flatMap((own) => [...own]));
  const factors = [...modules.values()].map((module, index) => {
    const parts = adapters.flatMap((adapter, a): Part[] => {
      const own = byPath[a]!.get(module.path);
      if (!own) return [];
      checkShapes(own, module);
      const draw: Part["uniform"] = (length, tensor) => uniform(seed, [purpose.prune, a, index, tensor], length);
      const { loraA, loraB } = adapter.tensors.get(module.path)!;
      return [{ loraA, loraB, rank: own.rank, scale: own.scale, weight: weights[a]!, uniform: draw }];
    });
    if (needsEqualRanks) checkRanks(parts.map(({ rank }) => rank));
    return { module, ...combineParts(parts, given, module) };
  });
  const tensors = new Map(factors.map(({ module, loraA, loraB }): [string, ModuleTensors] => [module.path, { loraA, loraB }]));
  const names = new Set(adapters.flatMap((adapter) => adapter.config.modulesToSave ?? []));
  const config = {
    ...adapters[0]!.config,
    ...targetsOf(adapters),
    ...besideOf(adapters),
    taskType: headed(adapters).config.taskType,
    modulesToSave: names.size > 0 ? [...names] : null,
  };
  return { ...besideFactors(adapters), ...withFactors(config, factors), tensors };
}

/** The fields that say what is trained beside factors, but for `modulesToSave`: those of the one adapter that uses them. */
function besideOf(adapters: readonly Adapter[]): Pick<LoraConfig, "bias" | "trainableTokenIndices" | "ensureWeightTying"> {
  const using = adapters.filter(({ config }) => config.bias !== "none" || config.trainableTokenIndices);
  if (using.length > 1) {
    refuse("saved", "several adapters train biases of the base, or rows of its tables", {
      subject: "bias, trainableTokenIndices",
      expected: "one adapter that does",
      got: String(using.length),
      next: "Combine the others with one of them.",
    });
  }
  const { bias = "none", trainableTokenIndices = null } = using[0]?.config ?? {};
  if (bias === "lora_only") checkBiases(using[0]!, adapters);
  return { bias, trainableTokenIndices, ensureWeightTying: adapters.some(({ config }) => config.ensureWeightTying) };
}

/** The fields that choose modules, of a configuration that chooses all that one of the adapters has. */
function targetsOf(adapters: readonly Adapter[]): Partial<LoraConfig> {
  const configs = adapters.map(({ config }) => config);
  const choices = configs.map(({ targetModules, excludeModules, layersToTransform, layersPattern }) => {
    return { targetModules, excludeModules, layersToTransform, layersPattern };
  });
  if (new Set(choices.map((choice) => JSON.stringify(choice))).size === 1) return {};
  const targets = configs.map(({ targetModules }) => targetModules);
  checkTargetTypes(targets);
  const isNarrowed = choices.some(
    ({ excludeModules, layersToTransform }) => excludeModules !== null || layersToTransform !== null,
  );
  if (!isNarrowed && targets.every(Array.isArray)) return { targetModules: [...new Set(targets.flat() as string[])] };
  if (!isNarrowed && targets.every((target) => typeof target === "string" && !isAllLinear(target)))
    return { targetModules: targets.map((target) => `(${target})`).join("|") };
  const paths = new Set(adapters.flatMap(({ modules }) => modules.map(({ path }) => path)));
  return { targetModules: [...paths], excludeModules: null, layersToTransform: null, layersPattern: null };
}

/** What the result has beside factors: each weight that an adapter trained in full, and what is said of its head. */
function besideFactors(adapters: readonly Adapter[]): Omit<Adapter, "config" | "modules" | "tensors"> {
  const saved = new Map(adapters.flatMap((adapter) => [...(adapter.saved ?? [])]));
  const count = adapters.reduce((sum, adapter) => sum + (adapter.saved?.size ?? 0), 0);
  if (count > saved.size) {
    const subject = [...saved.keys()].find((name) => adapters.filter((adapter) => adapter.saved?.has(name)).length > 1)!;
    refuse("saved", "several adapters have trained this module in full, and such weights can't be combined", {
      subject,
      expected: "one adapter that has it",
      got: "several",
      next: "Combine adapters of which one at most has it in its modules_to_save.",
    });
  }
  const frozen = new Map(adapters.flatMap((adapter) => [...(adapter.frozen ?? [])]));
  const { labels, task, head } = headed(adapters);
  const baseFingerprint = adapters.find((adapter) => adapter.baseFingerprint !== undefined)?.baseFingerprint;
  return {
    ...(saved.size > 0 && { saved }),
    ...(frozen.size > 0 && { frozen }),
    ...(labels && { labels }),
    ...(task !== undefined && { task }),
    ...(head && { head }),
    ...(baseFingerprint !== undefined && { baseFingerprint }),
  };
}

/** Whether a head comes with the adapter: files describe it, or it is a classifier's that was trained. */
const bringsHead = ({ head, saved, labels, config }: Adapter): boolean =>
  head !== undefined || (saved !== undefined && (labels !== undefined || trainsClassifier(config)));

/** The adapter whose head the result has: the first that brings one, else the first that trained a module in full. */
const headed = (adapters: readonly Adapter[]): Adapter =>
  adapters.find(bringsHead) ?? adapters.find(({ saved }) => saved) ?? adapters[0]!;

function checkOptions(count: number, weights: readonly number[], type: CombinationType, options: CombineOptions): void {
  const option = (subject: string, expected: string, got: unknown) =>
    refuse("option", "the adapters can't be combined by this", {
      subject,
      expected,
      got: String(got),
      next: `Change ${subject}.`,
    });
  const unused = (subject: string) =>
    option(subject, `none: ${type} does not use it`, options[subject as keyof CombineOptions] ?? "none");
  const isShare = (value: number) => value > 0 && value <= 1;
  if (count === 0) option("adapters", "one at least", "none");
  if (weights.length !== count) option("weights", `${count}, one for each adapter`, weights.length);
  if (!weights.every(Number.isFinite)) option("weights", "finite numbers", weights.join(", "));
  if (!Object.hasOwn(combinations, type)) option("combinationType", `one of ${combinationTypes.join(", ")}`, type);
  const { prunes, electsSigns, truncates } = combinations[type];
  const { density, svdRank, majoritySignMethod } = options;
  if (!prunes && density !== undefined) unused("density");
  if (!electsSigns && majoritySignMethod !== undefined) unused("majoritySignMethod");
  if (!truncates && svdRank !== undefined) unused("svdRank");
  if (prunes && !isShare(density ?? Number.NaN))
    option("density", `a number above 0 and at most 1, which ${type} needs`, density);
  if (svdRank !== undefined && !(Number.isSafeInteger(svdRank) && svdRank > 0))
    option("svdRank", "a whole number from 1 on", svdRank);
}

function checkMethod(config: LoraConfig): void {
  const { title } = methodOf(config);
  if (title === plainMethod.title) return;
  refuse("method", `adapters of ${title} can't be combined: their updates are no sums`, {
    expected: plainMethod.title,
    got: title,
    next: "Merge one of them into the base, and train the others on that.",
  });
}

function checkBases(adapters: readonly Adapter[]): void {
  const bases = new Map(adapters.flatMap(({ baseFingerprint, config }) => (baseFingerprint ? [[baseFingerprint, config]] : [])));
  if (bases.size < 2) return;
  const names = [...bases].map(
    ([fingerprint, config]) => `${config.baseModelNameOrPath ?? "no name"}, fingerprint ${fingerprint}`,
  );
  refuse("bases", "the adapters were made for different bases", {
    expected: names[0],
    got: names[1],
    next: "Combine adapters of one base, or allow any of its shape (--any-base, anyBase).",
  });
}

/** An adapter of lora_only has a bias for each module with factors: those of the result are to be its own. */
function checkBiases({ modules }: Adapter, adapters: readonly Adapter[]): void {
  const own = new Set(modules.map(({ path }) => path));
  const subject = adapters.flatMap((adapter) => adapter.modules).find(({ path }) => !own.has(path))?.path;
  if (subject === undefined) return;
  refuse("biases", "the adapter that trains the biases of its modules (lora_only) has no factors for a module of another one", {
    subject,
    expected: "a module that both have",
    got: "no bias of it",
    next: "Combine it with adapters of its own modules, or merge it into the base and train the others on that.",
  });
}

function checkHeads(adapters: readonly Adapter[]): void {
  const shown = ({ head }: Adapter) => (head ? JSON.stringify(head) : "a classifier");
  const [expected, got] = new Set(adapters.filter(bringsHead).map(shown));
  if (got === undefined) return;
  refuse("heads", "the adapters were trained with different heads", {
    expected: expected!.slice(0, 200),
    got: got.slice(0, 200),
    next: "Combine adapters of one task that were trained with the same pooling, prompts and longest text.",
  });
}

/** Where layers are used again, the same path stands for another layer of the base. */
function checkLayers(adapters: readonly Adapter[]): void {
  const [expected, got] = new Set(adapters.map(({ config }) => JSON.stringify(config.layerReplication)));
  if (got === undefined) return;
  const shown = (ranges: string | undefined) => (ranges === "null" ? "the base's own layers" : ranges);
  refuse("layers", "the adapters are for different layers of the base (layer_replication)", {
    expected: shown(expected),
    got: shown(got),
    next: "Combine adapters with the same layer_replication.",
  });
}

function checkRanks(ranks: readonly number[]): void {
  if (new Set(ranks).size === 1) return;
  const next = `Use cat or a type that ends in svd, or bring the adapters to one rank first (lowrank resize --rank ${Math.min(...ranks)}).`;
  const facts = { expected: "one rank", got: ranks.join(", "), next };
  refuse("ranks", "this type of combination needs adapters of the same rank: it works on their factors", facts);
}

function checkShapes(own: AdapterModule, other: AdapterModule): void {
  const shape = (module: AdapterModule) => `${module.inFeatures} inputs, ${module.outFeatures} outputs, ${placeName(module)}`;
  if (shape(own) === shape(other)) return;
  const facts = { subject: own.path, expected: shape(other), got: shape(own), next: "Combine adapters of one base." };
  refuse("shape", "the adapters were trained on models of different shapes", facts);
}

function checkTargetTypes(targets: readonly LoraConfig["targetModules"][]): void {
  const types = [...new Set(targets.flatMap((target) => (target === null || isAllLinear(target) ? [] : typeof target)))];
  if (types.length < 2) return;
  const got = targets.map((target) => JSON.stringify(target).slice(0, 80)).join(" and ");
  const next = "Write the expression as a list of names in its adapter_config.json.";
  const facts = { subject: "target_modules", expected: "lists, or regular expressions", got, next };
  refuse("targets", "the adapters choose their modules in different ways, by a list and by a regular expression", facts);
}

function refuse(reason: string, message: string, facts: Failure): never {
  throw new LowrankError(`combine/${reason}`, message, facts);
}
