// Which modules of a model an adapter acts on, and with which rank and scale. Follows PEFT 0.21.2's tuners_utils.py and constants.py.
import { LowrankError, nearest } from "../errors.ts";
import type { ModuleInfo } from "../models/module.ts";
import type { LoraConfig } from "./config.ts";
import type { Method } from "./method.ts";
import { methodOf } from "./method-table.ts";
import { beginningsOf, compilePattern, type MatchBudget, matchBudget } from "./regex.ts";
import { isInSaved, namesToSave, savedWeights, trainsClassifier } from "./saved.ts";

/** A module with an adapter: A is [rank, inFeatures], B is [outFeatures, rank], y += scale · B(A x). */
export interface AdapterModule {
  path: string;
  /** An embedding: inFeatures is its number of rows. */
  isEmbedding?: true;
  rank: number;
  alpha: number;
  /** alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA. */
  scale: number;
  inFeatures: number;
  outFeatures: number;
}

const qv = ["q_proj", "v_proj"];
const bertQv = ["query", "value"];
const fusedQkv = ["query_key_value"];

/** PEFT's TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING. */
export const defaultTargets: Readonly<Record<string, readonly string[] | string>> = {
  t5: ["q", "v"],
  mt5: ["q", "v"],
  bart: qv,
  gpt2: ["c_attn"],
  bloom: fusedQkv,
  "blip-2": ["q", "v", "q_proj", "v_proj"],
  opt: qv,
  gptj: qv,
  gpt_neox: fusedQkv,
  gpt_neo: qv,
  bert: bertQv,
  roberta: bertQv,
  "xlm-roberta": bertQv,
  electra: bertQv,
  "deberta-v2": ["query_proj", "value_proj"],
  deberta: ["in_proj"],
  layoutlm: bertQv,
  llama: qv,
  llama4: qv,
  chatglm: fusedQkv,
  gpt_bigcode: ["c_attn"],
  mpt: ["Wqkv"],
  RefinedWebModel: fusedQkv,
  RefinedWeb: fusedQkv,
  falcon: fusedQkv,
  btlm: ["c_proj", "c_attn"],
  codegen: ["qkv_proj"],
  mistral: qv,
  mixtral: qv,
  stablelm: qv,
  phi: ["q_proj", "v_proj", "fc1", "fc2"],
  gemma: qv,
  gemma2: qv,
  gemma3_text: qv,
  gemma4: ".*language_model\\..*\\.(q_proj|v_proj)",
  qwen2: qv,
  qwen3: qv,
  nemotron_h: ["q_proj", "k_proj", "v_proj", "o_proj"],
  rwkv: ["key", "value", "receptance", "output"],
  rwkv7: ["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"],
};

export const isAllLinear = (targets: LoraConfig["targetModules"]) =>
  typeof targets === "string" && targets.toLowerCase() === "all-linear";

/**
 * The modules that `config` adapts, in the order of `modules`, each with its rank, alpha and scale.
 * Throws if an entry of the targets, exclusions, layers or patterns matches nothing, if one matches what is no layer,
 * if a layer that cannot be adapted is chosen, and if nothing is left.
 */
export function matchModules(modules: readonly ModuleInfo[], config: LoraConfig, modelType: string): AdapterModule[] {
  const budget = matchBudget();
  savedWeights(modules, config); // refuses what cannot be saved
  const targetModules = targetsOf(modules, config, modelType);
  const matcher = pathMatcher({ ...config, targetModules }, budget);
  const container = containersOf(modules).find((path) => matcher.isTargeted(path));
  if (container !== undefined) throw targetsContainer(container, matcher.targets(container)[0]!, modules);
  // A default may hold names of several variants of a model type: it need not match as a whole.
  if (config.targetModules !== null) checkEntries("targetModules", targetModules, matcher.targets, modules);
  checkEntries("excludeModules", config.excludeModules || [], matcher.excluded, modules);
  const chosen = modules.filter(({ path }) => matcher.isTargeted(path));
  if (chosen.length === 0) throw nothingChosen(config, targetModules);
  checkLayers(config, matcher, modules, chosen);
  const embedding = chosen.find(({ kind }) => kind === "embedding");
  if (embedding && !methodOf(config).takesEmbeddings) throw refusedEmbedding(methodOf(config), embedding);

  const scales = scaleFinder(config, budget);
  const unused = scales.patterns.find(({ matches }) => !chosen.some(({ path }) => matches(path)));
  if (unused) throw noMatch(unused.option, unused.key, chosen);
  return chosen.map(({ path, kind, inFeatures, outFeatures }) => {
    const isEmbedding = kind === "embedding" && { isEmbedding: true as const };
    return { path, ...isEmbedding, ...scales.of(path), inFeatures, outFeatures };
  });
}

/**
 * `config` as PEFT stores it once `matched` is known: the targets spelled out (all-linear becomes the list of paths, or
 * of the shortest endings that select them if there are 20 or more), and fanInFanOut as the layers have it,
 * and the modules that a task saves.
 */
export function resolveConfig(
  config: LoraConfig,
  modules: readonly ModuleInfo[],
  matched: readonly AdapterModule[],
  modelType: string,
): LoraConfig {
  const targets = targetsOf(modules, config, modelType);
  const adapted = new Set(matched.map(({ path }) => path));
  const saved = namesToSave(config);
  return {
    ...config,
    ...(saved.length > 0 && { modulesToSave: saved }),
    targetModules: typeof targets === "string" ? targets : shortestEndings(targets, modules, { from: SHORTEN_FROM }),
    fanInFanOut: modules.some(({ path, kind }) => kind === "conv1d" && adapted.has(path)),
  };
}

/** Modules that PEFT's writer looks for among the targets (EMBEDDING_LAYER_NAMES). */
const EMBEDDING_NAMES = ["embed_tokens", "lm_head"];

/**
 * The frozen weights of adapted modules that PEFT stores with the adapter (`save_embedding_layers="auto"`): those of the input
 * embedding and the output layer, where the targets name one as Llama does.
 */
export function frozenWeights(config: LoraConfig, modules: readonly ModuleInfo[], adapted: readonly AdapterModule[]): string[] {
  const { targetModules } = config;
  const paths = new Set(adapted.map(({ path }) => path));
  const isNamed = Array.isArray(targetModules)
    ? targetModules.some((name) => EMBEDDING_NAMES.includes(name))
    : [...paths].some((path) => EMBEDDING_NAMES.includes(path.split(".").at(-1)!));
  const output = modules.find(({ isOutputEmbedding }) => isOutputEmbedding);
  const input = modules.find(({ kind, inFeatures }) => kind === "embedding" && (!output || inFeatures === output.outFeatures));
  const stored = [input, output].filter((module) => module !== undefined).filter(({ path }) => isNamed && paths.has(path));
  return stored.flatMap(({ path, hasBias }) => [`${path}.weight`, ...(hasBias ? [`${path}.bias`] : [])]);
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

/** The target modules as a list or a regular expression, with "all-linear" and the model type's default spelled out. */
function targetsOf(modules: readonly ModuleInfo[], config: LoraConfig, modelType: string): string[] | string {
  if (isAllLinear(config.targetModules)) {
    const hasOutput = modules.some((module) => module.isOutputEmbedding);
    const isHead = (module: ModuleInfo) =>
      hasOutput ? module.isOutputEmbedding : trainsClassifier(config) && module.isClassifierHead;
    return modules.filter((module) => module.kind !== "embedding" && !isHead(module)).map(({ path }) => path);
  }
  if (config.targetModules !== null) return config.targetModules;
  const targets = Object.hasOwn(defaultTargets, modelType) ? defaultTargets[modelType]! : undefined;
  if (!targets) {
    throw new LowrankError("lora/no-default-targets", `PEFT has no default target modules for the model type ${modelType}.`, {
      subject: "targetModules",
      expected: 'a list of module names, a regular expression, or "all-linear"',
      got: "none",
      next: `Choose target modules, for example ${suggestions("q_proj", modules)}.`,
    });
  }
  return typeof targets === "string" ? targets : [...targets];
}

/** Which entries of a list, or which regular expression, a path matches. */
type NameMatcher = (path: string) => string[];

/** How the paths of a configuration's modules are recognised. */
export interface PathMatcher {
  targets: NameMatcher;
  excluded: NameMatcher;
  /** PEFT's `check_target_module_exists`: whether the configuration adapts what is at `path`. */
  isTargeted(path: string): boolean;
  /** The index of the layer that `path` lies in, as `layersPattern` finds it. */
  layerOf(path: string): number | undefined;
}

/** The matcher of a configuration whose targets are a list or a regular expression (neither null nor "all-linear"). */
export function pathMatcher(config: LoraConfig, budget: MatchBudget): PathMatcher {
  const targets = nameMatcher(config.targetModules ?? [], "targetModules", budget);
  const excluded = nameMatcher(config.excludeModules || [], "excludeModules", budget);
  const exact = new Set(Array.isArray(config.targetModules) ? config.targetModules : []);
  const layers = layersOf(config);
  const layerOf = layerFinder(config.layersPattern, budget);
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
  const compile = (option: EndPattern["option"]): EndPattern[] =>
    Object.entries(config[option]).map(([key, value]) => {
      const pattern = compilePattern(key, `${option}: ${key}`, budget, true);
      return { option, key, value, matches: pattern.matchesEnd };
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
  const containers = new Set<string>();
  for (const { path } of modules) {
    for (const start of beginningsOf(path).slice(1)) containers.add(path.slice(0, start - 1));
  }
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

function noMatch(option: string, entry: string, modules: readonly { path: string }[]): LowrankError {
  return new LowrankError("lora/no-match", `An entry of ${option} matches no module.`, {
    subject: option,
    expected: `the path of a linear layer or its end, such as ${suggestions(entry, modules)}`,
    got: entry,
    next: "Correct or remove the entry.",
  });
}

function checkEntries(option: string, entries: readonly string[] | string, matcher: NameMatcher, modules: readonly ModuleInfo[]) {
  const matched = new Set(modules.flatMap(({ path }) => matcher(path)));
  const missing = [entries].flat().find((entry) => !matched.has(entry));
  if (missing !== undefined) throw noMatch(option, missing, modules);
}

function targetsContainer(container: string, entry: string, modules: readonly ModuleInfo[]): LowrankError {
  const inside = modules.filter(({ path }) => path.startsWith(`${container}.`)).map(({ path }) => path);
  return new LowrankError(
    "lora/not-a-layer",
    `An entry of targetModules matches ${container}, which is a group of modules and no layer.`,
    {
      subject: "targetModules",
      expected: `linear layers only, such as ${inside.slice(0, 3).join(", ")}`,
      got: entry,
      next: "Name the layers, or let the expression end in their names. PEFT refuses such a target as well.",
    },
  );
}

function checkLayers(config: LoraConfig, matcher: PathMatcher, modules: readonly ModuleInfo[], chosen: readonly ModuleInfo[]) {
  const found = new Set(chosen.map(({ path }) => matcher.layerOf(path)));
  const missing = layersOf(config).find((layer) => !found.has(layer));
  if (missing === undefined) return;
  const layers = modules.flatMap(({ path }) => matcher.layerOf(path) ?? []);
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

const refusedEmbedding = ({ title }: Method, { path }: ModuleInfo): LowrankError =>
  new LowrankError("lora/unsupported", `${title} can't adapt an embedding.`, {
    subject: path,
    expected: "linear layers, as in PEFT",
    next: `Leave ${path} out of targetModules, or add it to excludeModules.`,
  });
