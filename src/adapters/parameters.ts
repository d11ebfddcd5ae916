// PEFT's target_parameters: which weights of modules that are no linear layers an adapter is on, and their keys in its file. Follows PEFT
// 0.21.2's _inject_parameters, and transformers_weight_conversion.py for names of Transformers 4.
import { LowrankError, nearest } from "../errors.ts";
import { expertParameters } from "../models/layers/experts.ts";
import type { ModuleInfo } from "../models/module.ts";
import type { LoraConfig } from "./config.ts";
import { methodOf, plainMethod } from "./method-table.ts";

/** What modules of Transformers 4 are in Transformers 5, by model type. A parameter that several are is adapted with the sum of their ranks. */
const renamedModules: Record<string, Record<string, string>> = {
  mixtral: { gate: "gate.weight", w1: "gate_up_proj", w3: "gate_up_proj", w2: "down_proj" },
};

/** The parameter that a module stands for. */
export const parameterName = ({ path, kind }: Pick<ModuleInfo, "path" | "kind">): string =>
  kind === "experts" ? path : `${path}.weight`;

const isNamed = (name: string, entry: string): boolean => name === entry || name.endsWith(`.${entry}`);

/**
 * `config` with parameters in the place of targets that Transformers 5 has no modules for; `resolved` are the targets as endings of paths.
 * One that stands for two modules, as gate_up_proj for w1 and w3, gets twice the rank and alpha.
 */
export function withParameters(config: LoraConfig, modelType: string, endings: () => readonly string[]): LoraConfig {
  const renamed = Object.hasOwn(renamedModules, modelType) ? renamedModules[modelType] : undefined;
  if (!renamed || config.targetModules === null) return config;
  const oldNames = Object.keys(renamed);
  const oldName = (target: string) => oldNames.find((name) => isNamed(target, name));
  const targets = Array.isArray(config.targetModules) ? config.targetModules : endings();
  const found = new Set(targets.flatMap((target) => oldName(target) ?? []));
  if (found.size === 0) return config;
  const parameters = [...new Set([...found].map((name) => renamed[name]!))];
  const patterns: Record<string, number> = {};
  for (const parameter of parameters) {
    const all = oldNames.filter((name) => renamed[name] === parameter);
    const missing = all.filter((name) => !found.has(name));
    if (missing.length > 0)
      throw fused(
        all.filter((name) => found.has(name)),
        missing,
        parameter,
      );
    if (all.length > 1) patterns[`.*\\.${parameter}`] = all.length;
  }
  const times = (value: number) => Object.fromEntries(Object.entries(patterns).map(([key, count]) => [key, value * count]));
  return {
    ...config,
    targetModules: targets.filter((target) => oldName(target) === undefined),
    targetParameters: [...new Set([...(config.targetParameters ?? []), ...parameters])],
    rankPattern: { ...config.rankPattern, ...times(config.rank) },
    alphaPattern: { ...config.alphaPattern, ...times(config.alpha) },
  };
}

/** What "all-linear" and expressions find among the old names. */
export const renamedTargets = (modelType: string): string[] => Object.keys(renamedModules[modelType] ?? {});

const fused = (present: string[], missing: string[], parameter: string) =>
  new LowrankError("lora/unsupported", `${present.join(", ")} can't be adapted without ${missing.join(", ")}.`, {
    subject: "targetModules",
    expected: `both: they are one parameter, ${parameter}`,
    got: present.join(", "),
    next: `Add ${missing.join(", ")} to the targets.`,
  });

/**
 * The modules that `targetParameters` names. Throws `lora/no-match` for an entry that names no weight, and `lora/unsupported` for one
 * that PEFT does not adapt either, and beside what it does not adapt them with.
 */
export function targetedParameters(config: LoraConfig, modules: readonly ModuleInfo[]): ModuleInfo[] {
  const entries = config.targetParameters ?? [];
  const found = modules.filter((module) => entries.some((entry) => isNamed(parameterName(module), entry)));
  for (const entry of entries) {
    if (found.some((module) => isNamed(parameterName(module), entry))) continue;
    const names = modules.map(parameterName);
    throw new LowrankError("lora/no-match", "An entry of targetParameters matches no parameter.", {
      subject: "targetParameters",
      expected: `the name of a weight or its end, such as ${nearest(entry.slice(0, 128), names).join(", ")}`,
      got: entry,
      next: "Correct or remove the entry.",
    });
  }
  if (found.length === 0) return found;
  const other = found.find(({ kind }) => kind !== "experts" && kind !== "linear");
  if (other) throw unsupported(`The weight of ${other.path} can't be adapted as a parameter.`, parameterName(other), other.kind);
  const { title } = methodOf(config);
  if (title !== plainMethod.title) throw unsupported(`Parameters can't be adapted by ${title}.`, "targetParameters", title);
  if (config.dropout > 0) throw unsupported("Parameters can't be adapted with dropout.", "dropout", String(config.dropout));
  return found;
}

const unsupported = (message: string, subject: string, got: string) =>
  new LowrankError("lora/unsupported", message, {
    subject,
    expected: "matrices of linear layers and of experts, by plain LoRA without dropout, as in PEFT",
    got,
    next: "Leave it out, or choose other targets.",
  });

/**
 * The path that a parameter of experts has in keys: that of its module, which PEFT wraps once for each adapted parameter, in the order that
 * the module has them. The last one is outermost.
 */
export function keyPathOf(path: string, adapted: ReadonlySet<string>): string {
  const module = path.replace(/\.[^.]+$/, "");
  const wrapped = expertParameters.map((name) => `${module}.${name}`).filter((one) => adapted.has(one));
  const around = wrapped.length - 1 - wrapped.indexOf(path);
  return module + ".base_layer".repeat(around);
}

/** What is adapted at a path of a file's keys. */
export interface KeyTarget {
  /** Of the module, or of the parameter of experts. */
  path: string;
  /** The name that ranks and scales go by. */
  name: string;
  isExperts: boolean;
}

/**
 * What of `targetParameters` the tensors at a path of a file are on; null if they are a module's. `isKey` says which other paths the file
 * has.
 */
export function parameterAt(config: LoraConfig, keyPath: string, isKey: (path: string) => boolean): KeyTarget | null {
  const module = keyPath.replace(/(\.base_layer)+$/, "");
  const entries = config.targetParameters ?? [];
  if (entries.some((entry) => isNamed(`${module}.weight`, entry)))
    return { path: module, name: `${module}.weight`, isExperts: false };
  if (!/(^|\.)experts$/.test(module)) return null;
  const adapted = expertParameters.filter((name) => entries.some((entry) => isNamed(`${module}.${name}`, entry)));
  const paths = new Set(adapted.map((name) => `${module}.${name}`));
  const path = [...paths].find((one) => keyPathOf(one, paths) === keyPath);
  const isWhole = [...paths].every((one) => isKey(keyPathOf(one, paths)));
  return path !== undefined && isWhole ? { path, name: path, isExperts: true } : null;
}
