// Modules that are trained in full beside the adapter and stored with it: PEFT's modules_to_save, such as the head of a classifier.
import { LowrankError, nearest } from "../errors.ts";
import type { ModuleInfo } from "../models/module.ts";
import type { LoraConfig } from "./config.ts";

/** A weight of a module that is trained in full beside the adapter, by its stored name. */
export interface SavedWeight {
  name: string;
  shape: number[];
}

/** Its values, in row-major order. */
export interface SavedTensor {
  shape: readonly number[];
  data: Float32Array;
}

type Saving = Pick<LoraConfig, "modulesToSave" | "taskType">;

/** Modules that PEFT saves whatever the configuration says, where the task is classification: those of them that exist. */
const classifierNames = ["classifier", "score"];

/** Whether the task of an adapter is classification, of texts or of tokens: its head is trained in full. */
export const trainsClassifier = ({ taskType }: Pick<LoraConfig, "taskType">): boolean =>
  taskType === "SEQ_CLS" || taskType === "TOKEN_CLS";

/** The names of what `config` saves, those that its task adds included. */
export const namesToSave = (config: Saving): string[] => [
  ...new Set([...(config.modulesToSave ?? []), ...(trainsClassifier(config) ? classifierNames : [])]),
];

/** Whether PEFT takes a copy of the module at `path` that is trained in full: every path that ends in the letters of an entry. */
export const isSaved = (config: Saving, path: string): boolean => namesToSave(config).some((entry) => path.endsWith(entry));

/** Whether `path` is out of reach for target modules: it is, or lies in, a module that is saved. */
export const isInSaved = (config: Saving, path: string): boolean =>
  namesToSave(config).some((entry) => `.${path}.`.includes(`.${entry}.`));

/**
 * The weights that `config` saves, in the order of `modules`. Throws `lora/no-match` for an entry that matches nothing and
 * `lora/unsupported` for a module that is no linear layer, or one of a language model, whose generation knows none.
 */
export function savedWeights(modules: readonly ModuleInfo[], config: Saving): SavedWeight[] {
  const isLanguageModel = modules.some(({ isOutputEmbedding }) => isOutputEmbedding);
  const savable = isLanguageModel ? [] : modules.filter(({ kind }) => kind === "linear");
  const given = namesToSave(config).filter((entry) => !trainsClassifier(config) || !classifierNames.includes(entry));
  for (const entry of given) checkEntry(entry, modules, savable);
  return savable
    .filter(({ path }) => isSaved(config, path))
    .flatMap(({ path, inFeatures, outFeatures, hasBias }) => [
      { name: `${path}.weight`, shape: [outFeatures, inFeatures] },
      ...(hasBias ? [{ name: `${path}.bias`, shape: [outFeatures] }] : []),
    ]);
}

/** Fails unless `entry` names modules that can be saved, and those alone. */
function checkEntry(entry: string, modules: readonly ModuleInfo[], savable: readonly ModuleInfo[]): void {
  const named = modules.filter(({ path }) => path.endsWith(entry));
  const within = modules.find(({ path }) => !path.endsWith(entry) && `.${path}.`.includes(`.${entry}.`));
  const refused = within ?? named.find((module) => !savable.includes(module));
  if (!refused && named.length > 0) return;
  const paths = (savable.length > 0 ? savable : modules).map(({ path }) => path);
  const near = nearest(entry.slice(0, 128), paths).join(", ");
  if (!refused) {
    throw new LowrankError("lora/no-match", "An entry of modulesToSave matches no module.", {
      subject: "modulesToSave",
      expected: `the name of a linear layer, such as ${near}`,
      got: entry,
      next: "Correct or remove the entry.",
    });
  }
  throw new LowrankError("lora/unsupported", "This module can't be trained in full beside an adapter.", {
    subject: `modulesToSave: ${entry}`,
    expected: savable.length > 0 ? `a linear layer, such as ${near}` : "no modules to save, in a language model",
    got: refused.path,
    next: "Remove the entry, adapt the module by targetModules, or merge the adapter into its base with PEFT.",
  });
}
