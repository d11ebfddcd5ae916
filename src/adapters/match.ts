// Which modules of a model an adapter acts on, and with which rank and scale. Follows PEFT 0.21.2's tuners_utils.py and constants.py.
import { LowrankError, nearest } from "../errors.ts";
import type { ModuleInfo } from "../models/module.ts";
import type { LoraConfig } from "./config.ts";
import { initializationOf } from "./initializations.ts";
import type { Method } from "./method.ts";
import { methodOf } from "./method-table.ts";
import { keyPathOf, parameterName, renamedTargets, targetedParameters, withParameters } from "./parameters.ts";
import { checkGated, type ModulePlace, placeOf } from "./places.ts";
import { beginningsOf, compilePattern, type MatchBudget, matchBudget } from "./regex.ts";
import { EMBEDDING_NAMES, inputEmbedding, isInSaved, resolvedNames, savedWeights, trainsClassifier } from "./saved.ts";

/** A module with an adapter: A is [rank, inFeatures], B is [outFeatures, rank], y += scale · B(A x). Of experts each has its own. */
export interface AdapterModule extends ModulePlace {
  path: string;
  /** What keys in the adapter's file have in the place of `path`, where it is a parameter of experts. */
  keyPath?: string;
  rank: number;
  alpha: number;
  /** alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA. */
  scale: number;
  inFeatures: number;
  outFeatures: number;
}

/** PEFT's TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING: targets, and the model types that have them. */
const targetDefaults: readonly [targets: string[] | string, modelTypes: string][] = [
  [["q_proj", "v_proj"], "bart opt gptj gpt_neo llama llama4 mistral mixtral stablelm gemma gemma2 gemma3_text qwen2 qwen3"],
  [["query", "value"], "bert roberta xlm-roberta electra layoutlm"],
  [["query_key_value"], "bloom gpt_neox chatglm RefinedWebModel RefinedWeb falcon"],
  [["q", "v"], "t5 mt5"],
  [["q", "v", "q_proj", "v_proj"], "blip-2"],
  [["c_attn"], "gpt2 gpt_bigcode"],
  [["c_proj", "c_attn"], "btlm"],
  [["query_proj", "value_proj"], "deberta-v2"],
  [["in_proj"], "deberta"],
  [["Wqkv"], "mpt"],
  [["qkv_proj"], "codegen"],
  [["q_proj", "v_proj", "fc1", "fc2"], "phi"],
  [".*language_model\\..*\\.(q_proj|v_proj)", "gemma4"],
  [["q_proj", "k_proj", "v_proj", "o_proj"], "nemotron_h"],
  [["key", "value", "receptance", "output"], "rwkv"],
  [["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"], "rwkv7"],
];

export const isAllLinear = (targets: LoraConfig["targetModules"]) =>
  typeof targets === "string" && targets.toLowerCase() === "all-linear";

/**
 * The modules that `config` adapts, in the order of `modules`, each with its rank, alpha and scale.
 * Throws if an entry of the targets, exclusions, layers or patterns matches nothing, if one matches what is no layer,
 * if a layer that cannot be adapted is chosen, and if nothing is left.
 */
export function matchModules(every: readonly ModuleInfo[], given: LoraConfig, modelType: string): AdapterModule[] {
  const budget = matchBudget();
  savedWeights(every, given); // refuses what cannot be saved
  const all = every.filter(({ kind }) => kind !== "other");
  const config = spelledOut(given, all, modelType);
  const parameters = targetedParameters(config, all);
  const modules = all.filter(({ isParameter }) => !isParameter);
  const targetModules = targetsOf(modules, config, modelType);
  const matcher = pathMatcher({ ...config, targetModules }, budget);
  const container = containersOf(all).find(matcher.isTargeted);
  if (container !== undefined) throw targetsContainer(container, matcher.targets(container)[0]!, modules);
  // A default may hold names of several variants of a model type: it need not match as a whole.
  if (config.targetModules !== null) checkEntries("targetModules", targetModules, matcher.targets, modules);
  checkEntries("excludeModules", config.excludeModules || [], matcher.excluded, modules);
  const targeted = modules.filter(({ path }) => matcher.isTargeted(path));
  const twice = targeted.find((module) => parameters.includes(module));
  if (twice) throw targetedTwice(twice);
  const chosen = all.filter((module) => targeted.includes(module) || parameters.includes(module));
  if (chosen.length === 0) throw nothingChosen(config, targetModules);
  checkTying(config, chosen, modules);
  checkLayers(config, matcher, modules, targeted);
  checkEmbeddings(methodOf(config), targeted);
  checkGated(methodOf(config), chosen);

  const scales = scaleFinder(config, budget);
  const nameOf = (module: ModuleInfo) => (parameters.includes(module) ? parameterName(module) : module.path);
  const unused = scales.patterns.find(({ matches }) => !chosen.some((module) => matches(nameOf(module))));
  if (unused) throw noMatch(unused.option, unused.key, chosen);
  const paths = new Set(chosen.map(({ path }) => path));
  const adapted = chosen.map((module) => {
    const { path, kind, inFeatures, outFeatures } = module;
    const keyPath = kind === "experts" && { keyPath: keyPathOf(path, paths) };
    return { path, ...keyPath, ...placeOf(module), ...scales.of(nameOf(module)), inFeatures, outFeatures };
  });
  checkFirstRanks(config, adapted);
  return adapted;
}

/** Throws `lora/config` for a rank, and `lora/unsupported` for a module, with which an adapter cannot begin as its configuration says. */
function checkFirstRanks({ initLoraWeights }: LoraConfig, modules: readonly AdapterModule[]): void {
  const special = modules.find(({ kernel, experts }) => kernel || experts !== undefined);
  if (special && typeof initLoraWeights === "string" && initLoraWeights !== "gaussian") {
    throw new LowrankError("lora/unsupported", "convolutions and experts begin by what is drawn alone", {
      subject: special.path,
      expected: "true, false or gaussian, as in PEFT",
      got: initLoraWeights,
      next: "Choose another initialization (init), or leave the module out of the targets.",
    });
  }
  const { rank: rule } = initializationOf(initLoraWeights);
  const wrong = modules.find((module) => !module.isEmbedding && rule && !rule.holds(module));
  if (!wrong) return;
  const { path, rank, inFeatures, outFeatures } = wrong;
  throw new LowrankError("lora/config", `"${initLoraWeights}" cannot begin with this rank`, {
    subject: path,
    expected: rule!.expected,
    got: `rank ${rank}, weight [${outFeatures}, ${inFeatures}]`,
    next: "Choose another rank (rank, rankPattern) or another initialization (init).",
  });
}

/** What is said of ranks that are above the width of their layer; PEFT accepts them. */
export function rankWarnings(modules: readonly AdapterModule[]): string[] {
  const beyond = modules.filter(({ rank, inFeatures, outFeatures }) => rank > Math.min(inFeatures, outFeatures));
  const [first] = beyond;
  if (!first) return [];
  const { path, rank, inFeatures, outFeatures } = first;
  const others = beyond.length > 1 ? `, and ${beyond.length - 1} other modules` : "";
  return [`rank ${rank} is more than a layer of ${inFeatures} × ${outFeatures} can use: ${path}${others}`];
}

/**
 * `config` as PEFT stores it once `matched` is known: the targets spelled out (all-linear becomes the list of paths, or
 * of the shortest endings that select them if there are 20 or more), and fanInFanOut as the layers have it,
 * and the modules that a task saves.
 */
export function resolveConfig(
  given: LoraConfig,
  modules: readonly ModuleInfo[],
  matched: readonly AdapterModule[],
  modelType: string,
): LoraConfig {
  const config = spelledOut(given, modules, modelType);
  const targets = targetsOf(modules, config, modelType);
  const adapted = new Set(matched.map(({ path }) => path));
  const saved = resolvedNames(config, modules);
  return {
    ...config,
    ...(saved.length > 0 && { modulesToSave: saved }),
    targetModules: typeof targets === "string" ? targets : shortestEndings(targets, modules, { from: SHORTEN_FROM }),
    fanInFanOut: modules.some(({ path, kind }) => kind === "conv1d" && adapted.has(path)),
  };
}

/**
 * The frozen weights of adapted modules that PEFT stores with the adapter (`save_embedding_layers="auto"`): those of the input
 * embedding and the output layer, where the targets name one as Llama does.
 */
export function frozenWeights(config: LoraConfig, modules: readonly ModuleInfo[], adapted: readonly AdapterModule[]): string[] {
  const paths = adapted.map(({ path }) => path);
  const targets = Array.isArray(config.targetModules) ? config.targetModules : paths.map((path) => path.split(".").at(-1)!);
  if (config.trainableTokenIndices || !targets.some((name) => EMBEDDING_NAMES.includes(name))) return [];
  const output = modules.find(({ isOutputEmbedding }) => isOutputEmbedding);
  const stored = [inputEmbedding(modules), output]
    .filter((module) => module !== undefined)
    .filter(({ path }) => paths.includes(path));
  return stored.flatMap(({ path, hasBias }) => [
    `${path}.weight`,
    ...(hasBias && config.bias === "none" ? [`${path}.bias`] : []),
  ]);
}

/**
 * What modules have other than the usual rank and alpha, by path. A pattern matches every path that ends in it, and the first that matches
 * counts: longer ones come first.
 */
export function patternsOf(
  modules: readonly Pick<AdapterModule, "path" | "rank" | "alpha">[],
  usual: Pick<LoraConfig, "rank" | "alpha">,
): Pick<LoraConfig, "rankPattern" | "alphaPattern"> {
  const longest = [...modules].sort((a, b) => b.path.length - a.path.length);
  const others = (key: "rank" | "alpha") =>
    Object.fromEntries(longest.filter((one) => one[key] !== usual[key]).map((one) => [one.path, one[key]]));
  return { rankPattern: others("rank"), alphaPattern: others("alpha") };
}

/** Below this many targets PEFT leaves the list as it is (MIN_TARGET_MODULES_FOR_OPTIMIZATION). */
const SHORTEN_FROM = 20;

/**
 * PEFT's `_find_minimal_target_modules`: the fewest endings that select `targets` and nothing else of the model; of less than
 * `from` targets their paths.
 */
export function shortestEndings(
  targets: readonly string[],
  modules: readonly ModuleInfo[],
  { from }: { from: number },
): string[] {
  if (targets.length < from) return [...targets];
  const wanted = new Set(targets);
  const all = [...modules.map(({ path }) => path), ...containersOf(modules)];
  const others = new Set(all.filter((path) => !endingsOf(path).some((ending) => wanted.has(ending))).flatMap(endingsOf));
  const chosen = new Set<string>();
  for (const target of [...targets].sort()) {
    const endings = endingsOf(target);
    if (endings.slice(0, -1).some((ending) => chosen.has(ending))) continue;
    const ending = endings.find((candidate) => !others.has(candidate));
    if (ending) chosen.add(ending);
  }
  return chosen.size > 0 && chosen.size < targets.length ? [...chosen] : [...targets];
}

/** The configuration with parameters in the place of what Transformers 5 has no modules for (parameters.ts). */
function spelledOut(config: LoraConfig, modules: readonly ModuleInfo[], modelType: string): LoraConfig {
  const endings = (): string[] => {
    const isAll = isAllLinear(config.targetModules);
    const { isTargeted } = pathMatcher(config, matchBudget());
    const paths = isAll
      ? (targetsOf(modules, config, modelType) as string[])
      : modules.map(({ path }) => path).filter(isTargeted);
    const older = renamedTargets(modelType);
    const experts = modules.filter(({ kind }) => kind === "experts").map(({ path }) => path.replace(/[^.]+$/, ""));
    const isOld = (name: string) => isAll || experts.some((before) => isTargeted(before + name));
    return [...new Set([...paths.map((path) => path.split(".").at(-1)!), ...older.filter(isOld)])];
  };
  return withParameters(config, modelType, endings);
}

/** The target modules as a list or a regular expression, with "all-linear" and the model type's default spelled out. */
function targetsOf(modules: readonly ModuleInfo[], config: LoraConfig, modelType: string): string[] | string {
  if (isAllLinear(config.targetModules)) {
    const hasOutput = modules.some((module) => module.isOutputEmbedding);
    const isHead = (module: ModuleInfo) =>
      hasOutput ? module.isOutputEmbedding : trainsClassifier(config) && module.isClassifierHead;
    const isLinear = ({ kind, isParameter }: ModuleInfo) => (kind === "linear" || kind === "conv1d") && !isParameter;
    return modules.filter((module) => isLinear(module) && !isHead(module)).map(({ path }) => path);
  }
  if (config.targetModules !== null) return config.targetModules;
  const targets = targetDefaults.find(([, types]) => types.split(" ").includes(modelType))?.[0];
  if (targets) return targets;
  if (config.targetParameters?.length) return [];
  throw new LowrankError("lora/no-default-targets", `PEFT has no default target modules for the model type ${modelType}.`, {
    subject: "targetModules",
    expected: 'a list of module names, a regular expression, or "all-linear"',
    got: "none",
    next: `Choose target modules, for example ${suggestions("q_proj", modules)}.`,
  });
}

/** Which entries of a list, or which regular expression, a path matches. */
type NameMatcher = (path: string) => string[];

/** The matcher of a configuration whose targets are a list or a regular expression (neither null nor "all-linear"). */
export function pathMatcher(config: LoraConfig, budget: MatchBudget) {
  const targets = nameMatcher(config.targetModules ?? [], "targetModules", budget);
  const excluded = nameMatcher(config.excludeModules || [], "excludeModules", budget);
  const exact = new Set(Array.isArray(config.targetModules) ? config.targetModules : []);
  const layers = layersOf(config);
  const layerOf = layerFinder(config.layersPattern, budget);
  /** PEFT's `check_target_module_exists`: whether the configuration adapts what is at `path`. */
  const isTargeted = (path: string): boolean => {
    if (excluded(path).length > 0 || isInSaved(config, path) || targets(path).length === 0) return false;
    // A whole path among the targets matches whatever its layer, as in PEFT.
    return layers.length === 0 || exact.has(path) || layers.includes(layerOf(path) ?? Number.NaN);
  };
  return { targets, excluded, isTargeted, layerOf };
}

/** A list matches whole paths and endings of paths, a string matches as Python's `re.fullmatch` does. */
function nameMatcher(names: string[] | string, subject: string, budget: MatchBudget): NameMatcher {
  if (typeof names === "string") {
    const pattern = compilePattern(names, subject, budget);
    return (path) => (pattern.fullmatch(path) ? [names] : []);
  }
  const entries = new Set(names);
  return (path) => endingsOf(path).filter((ending) => entries.has(ending));
}

const layersOf = (config: LoraConfig): number[] => (config.layersToTransform === null ? [] : [config.layersToTransform].flat());

/** `c`, `b.c`, `a.b.c` for the path `a.b.c`. */
function endingsOf(path: string): string[] {
  return beginningsOf(path)
    .reverse()
    .map((start) => path.slice(start));
}

/** What finds the index of the layer that a path lies in. */
function layerFinder(pattern: LoraConfig["layersPattern"], budget: MatchBudget): (path: string) => number | undefined {
  const names = pattern ? [pattern].flat() : [];
  if (names.length === 0) {
    return (path) => {
      const found = /^.*?\.[^.]*\.(\d+)\./.exec(path);
      return found ? Number(found[1]) : undefined;
    };
  }
  const patterns = names.map((name) => {
    const pattern = compilePattern(name, "layersPattern", budget, true);
    if (!pattern.hasAlternatives) return pattern;
    throw new LowrankError("lora/regex", "PEFT reads a layers pattern with | outside of a group as something else.", {
      subject: "layersPattern",
      got: name,
      next: "Give a list of patterns, one for each alternative.",
    });
  });
  return (path) => {
    for (const name of patterns) {
      // (?:^|.*?\.)NAME\.(\d+)\. : the first beginning, then the first end, that a number follows.
      for (const start of beginningsOf(path)) {
        for (const end of name.ends(path, start)) {
          const found = /^\.(\d+)\./.exec(path.slice(end));
          if (found) return Number(found[1]);
        }
      }
    }
    return undefined;
  };
}

/** An entry of rankPattern or alphaPattern. */
interface EndPattern {
  option: "rankPattern" | "alphaPattern";
  key: string;
  value: number;
  matches(path: string): boolean;
}

/** Rank, alpha and scale of the module at a path: those of the first entry, in the order written, that matches it. */
export function scaleFinder(config: LoraConfig, budget: MatchBudget) {
  const compile = (option: EndPattern["option"]) =>
    Object.entries(config[option]).map(([key, value]): EndPattern => {
      return { option, key, value, matches: compilePattern(key, `${option}: ${key}`, budget, true).matchesEnd };
    });
  const ranks = compile("rankPattern");
  const alphas = compile("alphaPattern");
  const of = (path: string) => {
    const rank = ranks.find(({ matches }) => matches(path))?.value ?? config.rank;
    const alpha = alphas.find(({ matches }) => matches(path))?.value ?? config.alpha;
    return { rank, alpha, scale: alpha / (config.useRslora ? Math.sqrt(rank) : rank) };
  };
  return { of, patterns: [...ranks, ...alphas] };
}

/** The paths that hold modules: every proper beginning of a path that is no module itself. */
function containersOf(modules: readonly ModuleInfo[]): string[] {
  const beginnings = modules.flatMap(({ path }) =>
    beginningsOf(path)
      .slice(1)
      .map((start) => path.slice(0, start - 1)),
  );
  const containers = new Set(beginnings);
  for (const { path } of modules) containers.delete(path);
  return [...containers];
}

/** Longest part of an entry that is compared with names to suggest some. */
const SUGGEST_FROM_CHARS = 128;

/** For an entry that matches nothing: the endings of paths nearest to it, or for an expression, paths written as one. */
function suggestions(entry: string, modules: readonly { path: string }[]): string {
  const wanted = entry.slice(0, SUGGEST_FROM_CHARS);
  const depth = wanted.split(".").length;
  const isPlain = /^[\w.-]*$/.test(wanted);
  const names = modules.map(({ path }) =>
    isPlain ? (endingsOf(path)[depth - 1] ?? path) : path.replaceAll(".", "\\.").replace(/\d+/g, "\\d+"),
  );
  return nearest(wanted, new Set(names)).join(", ");
}

function noMatch(subject: string, got: string, modules: readonly { path: string }[]): LowrankError {
  const expected = `the path of a linear layer or its end, such as ${suggestions(got, modules)}`;
  const next = "Correct or remove the entry.";
  return new LowrankError("lora/no-match", `An entry of ${subject} matches no module.`, { subject, expected, got, next });
}

function checkEntries(option: string, entries: readonly string[] | string, matcher: NameMatcher, modules: readonly ModuleInfo[]) {
  const matched = new Set(modules.flatMap(({ path }) => matcher(path)));
  const missing = [entries].flat().find((entry) => !matched.has(entry));
  if (missing !== undefined) throw noMatch(option, missing, modules);
}

function targetsContainer(container: string, entry: string, modules: readonly ModuleInfo[]): LowrankError {
  const inside = modules.filter(({ path }) => path.startsWith(`${container}.`)).map(({ path }) => path);
  const message = `An entry of targetModules matches ${container}, which is a group of modules and no layer.`;
  return new LowrankError("lora/not-a-layer", message, {
    subject: "targetModules",
    expected: `linear layers only, such as ${inside.slice(0, 3).join(", ")}`,
    got: entry,
    next: "Name the layers, or let the expression end in their names. PEFT refuses such a target as well.",
  });
}

function checkLayers(
  config: LoraConfig,
  { layerOf }: ReturnType<typeof pathMatcher>,
  modules: readonly ModuleInfo[],
  chosen: readonly ModuleInfo[],
) {
  const found = new Set(chosen.map(({ path }) => layerOf(path)));
  const missing = layersOf(config).find((layer) => !found.has(layer));
  if (missing === undefined) return;
  const layers = modules.flatMap(({ path }) => layerOf(path) ?? []);
  throw new LowrankError("lora/no-match", "A layer of layersToTransform has no target module.", {
    subject: "layersToTransform",
    expected: `layers between ${layers.reduce((a, b) => Math.min(a, b))} and ${layers.reduce((a, b) => Math.max(a, b))}`,
    got: String(missing),
    next: "Remove the layer, or choose target modules that it has.",
  });
}

function nothingChosen(config: LoraConfig, targets: string[] | string): LowrankError {
  const narrowed = [
    config.excludeModules?.length ? `excludeModules ${JSON.stringify(config.excludeModules)}` : "",
    layersOf(config).length ? `layersToTransform ${JSON.stringify(config.layersToTransform)}` : "",
    config.layersPattern?.length ? `layersPattern ${JSON.stringify(config.layersPattern)}` : "",
  ].filter(Boolean);
  return new LowrankError("lora/no-match", "The configuration adapts no module at all.", {
    subject: "targetModules",
    expected: "at least one linear layer",
    got: [`targets ${JSON.stringify(targets).slice(0, 200)}`, ...narrowed].join(", "),
    next: narrowed.length > 0 ? "Loosen what narrows the targets." : "Choose target modules that the model has.",
  });
}

/** PEFT's tied factors step twice, and are merged wrongly. */
function checkTying({ ensureWeightTying }: LoraConfig, chosen: readonly ModuleInfo[], modules: readonly ModuleInfo[]): void {
  const names = new Set(modules.flatMap(({ path, tiedTo }) => (tiedTo ? [`${path}.weight`, tiedTo] : [])));
  const subject = chosen.find(({ path }) => names.has(`${path}.weight`))?.path;
  if (!ensureWeightTying || subject === undefined) return;
  const next = `Leave ${subject} out of targetModules and train it in full (modulesToSave), or turn ensureWeightTying off.`;
  const facts = { subject, expected: "tied modules among modulesToSave alone", got: "factors of one", next };
  throw new LowrankError("lora/unsupported", "Factors of tied modules can't be tied.", facts);
}

const targetedTwice = ({ path }: ModuleInfo) =>
  new LowrankError("lora/unsupported", "A module can't be adapted as a module and by its weight as a parameter.", {
    subject: path,
    expected: "targetModules or targetParameters that name it",
    got: "both",
    next: "Remove one of the two entries.",
  });

function checkEmbeddings({ title, takesEmbeddings }: Method, chosen: readonly ModuleInfo[]): void {
  const subject = chosen.find(({ kind }) => kind === "embedding")?.path;
  if (takesEmbeddings || subject === undefined) return;
  const next = `Leave ${subject} out of targetModules, or add it to excludeModules.`;
  const facts = { subject, expected: "linear layers, as in PEFT", next };
  throw new LowrankError("lora/unsupported", `${title} can't adapt an embedding.`, facts);
}
