// What is trained beside the factors: modules in full, rows of a table, biases. Follows PEFT's modules_to_save, trainable_token_indices
// and bias: which weights, under which keys, and where one tensor stands in two places.
import { type Failure, LowrankError, nearest } from "../errors.ts";
import type { Files } from "../files.ts";
import { entryOf, findTensor } from "../formats/checkpoint.ts";
import { readRows } from "../formats/stored.ts";
import type { AnyBase } from "../models/base.ts";
import type { ModuleInfo } from "../models/module.ts";
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import { beginningsOf } from "./regex.ts";

/** A trained tensor that stands in the place of a weight of the base, or of some of its rows. */
export interface SavedWeight {
  /** The model's name of the weight. */
  name: string;
  /** That of the tensor: of the whole weight, or [rows, columns]. */
  shape: number[];
  /** The rows of the weight that it has; all of them if absent. */
  rows?: readonly number[];
  /** Other weights, by name, that it stands in for as well: they are one with this in a tied model. */
  tied?: readonly string[];
  /** Its key in the adapter's file, where that is not the name; without what all keys begin with. */
  key?: string;
}

/** One with its values, in row-major order. */
export interface SavedTensor extends Omit<SavedWeight, "name" | "shape"> {
  shape: readonly number[];
  data: Float32Array;
}

type Saving = Pick<LoraConfig, "modulesToSave" | "taskType">;
type Beside = Saving & Partial<Pick<LoraConfig, "trainableTokenIndices" | "bias" | "ensureWeightTying">>;

/** A model, and what of it has factors. */
interface Model {
  modules: readonly ModuleInfo[];
  adapted: ReadonlySet<string>;
}

/** A way to train something beside the factors. */
interface Way {
  /** The weights of a model that a configuration trains by it. Throws `lora/*` for what cannot be. */
  weights(config: Beside, model: Model): SavedWeight[];
  /** What a key of an adapter's file holds, if it is one of this way. */
  read(key: string, config: Beside): Omit<SavedWeight, "shape"> | null;
}

/** Modules that PEFT saves whatever the configuration says, where the task is classification: those of them that exist. */
const classifierNames = ["classifier", "score"];

/** How PEFT's rules know an input embedding and an output layer (EMBEDDING_LAYER_NAMES). */
export const EMBEDDING_NAMES = ["embed_tokens", "lm_head"];

/** Whether the task of an adapter is classification, of texts or of tokens: its head is trained in full. */
export const trainsClassifier = ({ taskType }: Pick<LoraConfig, "taskType">): boolean =>
  taskType === "SEQ_CLS" || taskType === "TOKEN_CLS";

/** The names of what `config` saves, those that its task adds included. */
export const namesToSave = (config: Saving): string[] => [
  ...new Set([...(config.modulesToSave ?? []), ...(trainsClassifier(config) ? classifierNames : [])]),
];

/** The path itself, and those of the groups that it lies in: `a.b`, `a` for `a.b`. */
const withGroups = (path: string): string[] => beginningsOf(path).map((start) => (start === 0 ? path : path.slice(0, start - 1)));

/** What of `path` and its groups PEFT copies, and trains in full: every path that ends in the letters of an entry. */
const savedAt = (config: Saving, path: string): string[] => {
  const names = namesToSave(config);
  return withGroups(path).filter((one) => names.some((entry) => one.endsWith(entry)));
};

/** Whether there is any: in few steps, since paths and names can be a stranger's. */
const isSaved = (config: Saving, path: string): boolean => namesToSave(config).some((entry) => `${path}.`.includes(`${entry}.`));

const isIn = (entry: string, path: string): boolean => `.${path}.`.includes(`.${entry}.`);

/** Whether `path` is out of reach for target modules: it is, or lies in, a module that is saved. */
export const isInSaved = (config: Saving, path: string): boolean => namesToSave(config).some((entry) => isIn(entry, path));

const weightOf = (path: string): string => `${path}.weight`;
const biasOf = (path: string): string => `${path}.bias`;
const moduleOf = (name: string): string => name.replace(/\.[^.]+$/, "");

/** The module of a weight, or the group of a parameter that belongs to no module. */
const ownerOf = ({ path, kind, isParameter }: ModuleInfo): string => (kind === "other" && isParameter ? moduleOf(path) : path);

const shapeOf = ({ kind, shape, kernel, inFeatures, outFeatures }: ModuleInfo): number[] =>
  shape ? [...shape] : kind === "linear" || kernel ? [outFeatures, ...(kernel ?? [inFeatures])] : [inFeatures, outFeatures];

/** The modules that read the table of the embedding `of` as theirs. */
const tiedTo = (modules: readonly ModuleInfo[], of: ModuleInfo): ModuleInfo[] =>
  modules.filter((module) => module.tiedTo === weightOf(of.path));

/** The embedding of a model's tokens. */
export const inputEmbedding = (modules: readonly ModuleInfo[]): ModuleInfo | undefined => {
  const output = modules.find(({ isOutputEmbedding }) => isOutputEmbedding);
  return modules.find(({ kind, inFeatures }) => kind === "embedding" && (!output || inFeatures === output.outFeatures));
};

/** What `ensureWeightTying` makes one with the embedding, where that is among what is saved; null where nothing is tied. */
function tiedInSaving({ modulesToSave, ensureWeightTying }: Beside, modules: readonly ModuleInfo[]) {
  const embedding = inputEmbedding(modules);
  const tied = embedding ? tiedTo(modules, embedding) : [];
  const names = modulesToSave?.some((entry) => EMBEDDING_NAMES.includes(entry.split(".").at(-1)!));
  return ensureWeightTying && names && tied.length > 0 ? { embedding: embedding!, tied } : null;
}

/** `modulesToSave` as PEFT stores it: of tied modules the embedding alone, by its path. */
export function resolvedNames(config: Beside, modules: readonly ModuleInfo[]): string[] {
  const names = namesToSave(config);
  const one = tiedInSaving(config, modules);
  if (!one) return names;
  const all = [...new Set([...names, one.embedding.path])];
  for (const { path } of one.tied) {
    const at = all.findIndex((entry) => isIn(entry, path));
    if (at >= 0) all.splice(at, 1);
  }
  return all;
}

/** modules_to_save, such as the head of a classifier or every MLP: all weights in them. */
const wholeModules: Way = {
  weights(config, model) {
    const { modules } = model;
    const given = namesToSave(config).filter((entry) => !trainsClassifier(config) || !classifierNames.includes(entry));
    for (const entry of given) checkEntry(entry, modules);
    const resolved = { modulesToSave: resolvedNames(config, modules), taskType: null };
    const one = tiedInSaving(config, modules);
    const chosen = modules.filter((module) => isSaved(resolved, ownerOf(module)));
    checkSaved(chosen, resolved, model);
    return chosen.flatMap((module) => {
      const { path, kind, outFeatures, hasBias, weight } = module;
      const tied = module === one?.embedding && { tied: one.tied.map((other) => weightOf(other.path)) };
      const bias = { name: biasOf(path), shape: [outFeatures] };
      const name = kind === "other" && weight ? weight : weightOf(path);
      return [{ name, shape: shapeOf(module), ...tied }, ...(hasBias ? [bias] : [])];
    });
  },
  read: (key, config) => (isSaved(config, moduleOf(key)) ? { name: key } : null),
};

const TOKENS_KEY = ".token_adapter.trainable_tokens_delta";

/** trainable_token_indices: some rows of an embedding, or of an output layer. */
const tableRows: Way = {
  weights(config, model) {
    const { trainableTokenIndices: given, ensureWeightTying } = config;
    if (!given) return [];
    const { modules } = model;
    const embedding = inputEmbedding(modules);
    const found = Array.isArray(given)
      ? [[tokenEmbedding(embedding, modules), given] as const]
      : Object.entries(given).flatMap(([entry, rows]) => modulesNamed(entry, modules).map((module) => [module, rows] as const));
    const rowsOf = new Map(found);
    for (const [module, rows] of rowsOf) checkRows(module, rows, config, model);
    const own = embedding && rowsOf.get(embedding);
    const tied = own ? tiedTo(modules, embedding) : [];
    const others = tied.filter((module) => rowsOf.has(module) && rowsOf.get(module)!.join() !== own!.join());
    if (others.length > 0 && ensureWeightTying) {
      refuse("lora/config", "Tied modules can't be trained as one in different rows.", {
        subject: "trainableTokenIndices",
        expected: `the same rows of ${[embedding!, ...others].map(({ path }) => path).join(" and ")}`,
        got: [own!, ...others.map((module) => rowsOf.get(module)!)].map((rows) => `[${rows.join(", ")}]`).join(" and "),
        next: "Give the same rows, or turn ensureWeightTying off.",
      });
    }
    const one = own && others.length === 0 ? tied : [];
    return modules.flatMap((module): SavedWeight[] => {
      const rows = rowsOf.get(module);
      if (!rows || one.includes(module)) return [];
      const { path } = module;
      const also = module === embedding && one.length > 0 && { tied: one.map((other) => weightOf(other.path)) };
      return [{ name: weightOf(path), shape: [rows.length, shapeOf(module)[1]!], rows, ...also, key: path + TOKENS_KEY }];
    });
  },
  read(key, { trainableTokenIndices: given }) {
    if (!given || !key.endsWith(TOKENS_KEY)) return null;
    const path = key.slice(0, -TOKENS_KEY.length);
    const rows = Array.isArray(given) ? given : Object.entries(given).find(([entry]) => path.endsWith(entry))?.[1];
    return rows ? { name: weightOf(path), rows, key } : null;
  },
};

/** bias: those of adapted modules, or all of them. */
const biases: Way = {
  weights(config, { modules, adapted }) {
    const { bias = "none" } = config;
    const chosen = modules.filter(
      ({ path, hasBias }) => hasBias && !isSaved(config, path) && (bias === "all" || adapted.has(path)),
    );
    if (bias === "none") return [];
    return chosen.map(({ path, outFeatures }) => {
      return { name: biasOf(path), shape: [outFeatures], ...(adapted.has(path) && { key: `${path}.base_layer.bias` }) };
    });
  },
  read(key, { bias = "none" }) {
    if (bias === "none" || !key.endsWith(".bias") || /\.lora_[AB]\.bias$/.test(key)) return null;
    // Before PEFT 0.7 those of adapted modules had no name of their own.
    return key.endsWith(".base_layer.bias") ? { name: key.replace(/\.base_layer(?=\.bias$)/, ""), key } : { name: key };
  },
};

const ways: readonly Way[] = [wholeModules, tableRows, biases];

/** The tensors that `config` trains beside the factors of the `adapted` modules. Throws `lora/*` for what cannot be trained. */
export function savedWeights(
  modules: readonly ModuleInfo[],
  config: Beside,
  adapted: readonly { path: string }[] = [],
): SavedWeight[] {
  const model = { modules, adapted: new Set(adapted.map(({ path }) => path)) };
  return ways.flatMap((way) => way.weights(config, model));
}

/** What a key of an adapter's file, without what all keys begin with, holds beside factors; null if it is none of that. */
export function savedKey(key: string, config: Beside): Omit<SavedWeight, "shape"> | null {
  for (const way of ways) {
    const found = way.read(key, config);
    if (found) return found;
  }
  return null;
}

/** Keys that PEFT writes beside `bias: all` for modules that are saved: their weights have keys of their own. */
export const isCopyOfBias = (key: string, { bias }: Pick<Beside, "bias">): boolean =>
  bias === "all" && /\.(original_module|modules_to_save)\.(.+\.)?bias$/.test(key);

/** The keys of a tensor in the adapter's file. */
export const keysOf = ({ name, key = name, rows, tied = [] }: Omit<SavedWeight, "shape">): string[] =>
  rows ? [key] : [key, ...tied];

/** The weight that stands for one of the model's: another module's, where one that is tied to it has none of its own. */
export function ownName({ checkpoint, modules }: StoredModel, name: string): string {
  if (entryOf(checkpoint, name)) return name;
  return modules.find(({ path, tiedTo }) => tiedTo && name === weightOf(path))?.tiedTo ?? name;
}

type StoredModel = Pick<AnyBase, "checkpoint" | "modules">;

/** The base's own values in the place of a saved tensor, as float32. */
export async function storedValues(
  files: Files,
  base: StoredModel,
  { name, shape, rows }: Pick<SavedTensor, "shape" | "rows"> & { name: string },
): Promise<Float32Array> {
  const tensor = findTensor(base.checkpoint, ownName(base, name));
  if (!rows) return readRows(files, tensor);
  const data = new Float32Array(sizeOf(shape));
  for (const [i, row] of rows.entries()) data.set(await readRows(files, tensor, row, 1), i * shape[1]!);
  return data;
}

function tokenEmbedding(embedding: ModuleInfo | undefined, modules: readonly ModuleInfo[]): ModuleInfo {
  if (embedding) return embedding;
  return refuse("lora/no-match", "The model has no embedding of tokens.", {
    subject: "trainableTokenIndices",
    expected: "a model that reads tokens",
    got: modules[0]?.path ?? "no modules",
    next: "Remove trainableTokenIndices.",
  });
}

function modulesNamed(entry: string, modules: readonly ModuleInfo[]): ModuleInfo[] {
  const named = modules.filter(({ path }) => path.endsWith(entry));
  if (named.length > 0) return named;
  return refuse("lora/no-match", "An entry of trainableTokenIndices matches no module.", {
    subject: "trainableTokenIndices",
    expected: `the name of an embedding or of an output layer, such as ${near(entry, modules)}`,
    got: entry,
    next: "Correct or remove the entry.",
  });
}

/** Fails unless these rows of a module can be trained, as PEFT fails later or not at all. */
function checkRows(module: ModuleInfo, rows: readonly number[], config: Beside, { adapted }: Model): void {
  const { path, kind, hasBias } = module;
  const subject = `trainableTokenIndices: ${path}`;
  const no = (expected: string, got: string) =>
    refuse("lora/unsupported", "Rows of this module can't be trained.", { subject, expected, got, next: "Remove one of them." });
  if (kind !== "embedding" && (kind !== "linear" || hasBias)) no("an embedding, or a linear layer without a bias", path);
  if (adapted.has(path)) no("a module without factors", "targetModules names it too");
  if (isSaved(config, path)) no("a module that is not trained in full", "modulesToSave names it too");
  const count = shapeOf(module)[0]!;
  const bad = rows.find((row, i) => row >= count || rows.indexOf(row) !== i);
  if (rows.length > 0 && bad === undefined) return;
  refuse("lora/config", "These are no rows of the module.", {
    subject,
    expected: `different numbers from 0 to ${count - 1}`,
    got: bad === undefined ? "none" : String(bad),
    next: "Correct the indices.",
  });
}

const near = (entry: string, modules: readonly ModuleInfo[]): string =>
  nearest(
    entry.slice(0, 128),
    modules.map(({ path }) => path),
  ).join(", ");

/** Fails unless `entry` names modules, or groups of them, but for lists of layers. */
function checkEntry(entry: string, modules: readonly ModuleInfo[]): void {
  const named = new Set(modules.flatMap((module) => withGroups(ownerOf(module))).filter((path) => path.endsWith(entry)));
  const list = [...named].find((path) => isList(path, modules));
  if (list !== undefined) {
    refuse("lora/unsupported", "A list of layers can't be trained in full as one, its layers can.", {
      subject: `modulesToSave: ${entry}`,
      expected: `modules of the layers, such as ${near(`${list}.0.mlp`, modules)}`,
      got: list,
      next: "Name modules in it, or train all of the model (--full). PEFT refuses a list as well.",
    });
  }
  if (named.size > 0) return;
  const expected = `the name of a layer, an embedding, a norm, or a group of them, such as ${near(entry, modules)}`;
  const message = "An entry of modulesToSave matches no module.";
  refuse("lora/no-match", message, { subject: "modulesToSave", expected, got: entry, next: "Correct or remove the entry." });
}

/** Whether what is at `path` has nothing but numbered modules. */
function isList(path: string, modules: readonly ModuleInfo[]): boolean {
  const inside = modules.filter((module) => module.path.startsWith(`${path}.`));
  return inside.length > 0 && inside.every((module) => /^\d+\./.test(module.path.slice(path.length + 1)));
}

/** Fails for modules that PEFT saves under other names than the model's, or saves and can't load again. */
function checkSaved(chosen: readonly ModuleInfo[], config: Saving, { modules, adapted }: Model): void {
  const no = (message: string, subject: string, expected: string, got: string, next: string) =>
    refuse("lora/unsupported", message, { subject, expected, got, next });
  const isRouted = ({ kind, isParameter, weight }: ModuleInfo) =>
    kind === "experts" || (isParameter && weight !== undefined && kind !== "other");
  const routed = new Set(
    modules.filter(isRouted).flatMap(({ weight, parts = [] }) => [weight, ...parts.map((part) => part.weight)]),
  );
  for (const module of chosen) {
    const { path } = module;
    if (isRouted(module) || routed.has(weightOf(path))) {
      const next = "Name other modules, or adapt the experts by factors (targetParameters).";
      no("Experts of a mixture can't be trained in full.", path, "modules that every token passes", path, next);
    }
    const saved = savedAt(config, ownerOf(module));
    if (saved.length > 1) {
      const next = "Remove the entry for the module inside: all of the group is trained.";
      no("A module can't be trained in full by itself and in its group.", path, "one of them", saved.join(" and "), next);
    }
    if (adapted.has(path)) {
      const next = "Name the group by all of its name, so that its layers get no factors, or leave them out of targetModules.";
      no("A module that is trained in full can't have factors.", path, "one of them", `modulesToSave names ${saved[0]}`, next);
    }
  }
}

function refuse(code: string, message: string, facts: Failure): never {
  throw new LowrankError(code, message, facts);
}
