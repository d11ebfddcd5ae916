// Modules that are trained in full beside the adapter and stored with it: PEFT's modules_to_save, here the head of a classifier.
import { LowrankError, nearest } from "../errors.ts";
import type { LoraConfig } from "./config.ts";
import type { ModuleInfo } from "./match.ts";

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

/** The names of what `config` saves, those that its task adds included. */
export const namesToSave = ({ modulesToSave, taskType }: Saving): string[] => [
  ...new Set([...(modulesToSave ?? []), ...(taskType === "SEQ_CLS" ? classifierNames : [])]),
];

/** Whether PEFT takes a copy of the module at `path` that is trained in full: every path that ends in the letters of an entry. */
export const isSaved = (config: Saving, path: string): boolean => namesToSave(config).some((entry) => path.endsWith(entry));

/** Whether `path` is out of reach for target modules: it is, or lies in, a module that is saved. */
export const isInSaved = (config: Saving, path: string): boolean =>
  namesToSave(config).some((entry) => `.${path}.`.includes(`.${entry}.`));

/**
 * The weights that `config` saves, in the order of `modules`. Throws `lora/no-match` for an entry that matches nothing and
 * `lora/unsupported` for a module that is no classifier head.
 */
export function savedWeights(modules: readonly ModuleInfo[], config: Saving): SavedWeight[] {
  const given = namesToSave(config).filter((entry) => config.taskType !== "SEQ_CLS" || !classifierNames.includes(entry));
  for (const entry of given) {
    const path = modules.find((module) => `${module.path}.`.includes(`${entry}.`))?.path;
    const heads = modules.filter(({ isClassifierHead }) => isClassifierHead).map((head) => head.path);
    if (path !== undefined && heads.includes(path)) continue;
    const expected = heads.length > 0 ? heads.join(", ") : "none: this model has no classifier";
    if (path === undefined) {
      throw new LowrankError("lora/no-match", "An entry of modulesToSave matches no module that can be saved.", {
        subject: "modulesToSave",
        expected,
        got: entry,
        next: `Correct or remove the entry. Modules named most like it: ${nearest(
          entry.slice(0, 128),
          modules.map((module) => module.path),
        ).join(", ")}.`,
      });
    }
    throw new LowrankError("lora/unsupported", "Only the head of a classifier can be trained in full beside an adapter.", {
      subject: `modulesToSave: ${entry}`,
      expected,
      got: path,
      next: "Remove the entry, adapt the module by targetModules, or merge the adapter into its base with PEFT.",
    });
  }
  return modules
    .filter(({ path, isClassifierHead }) => isClassifierHead && isSaved(config, path))
    .flatMap(({ path, inFeatures, outFeatures, hasBias }) => [
      { name: `${path}.weight`, shape: [outFeatures, inFeatures] },
      ...(hasBias ? [{ name: `${path}.bias`, shape: [outFeatures] }] : []),
    ]);
}
