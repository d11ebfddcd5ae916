// What a folder holds: an adapter's configuration, size and norms, or a base model's shape. No session is opened.

import type { LoraConfig } from "../../adapters/config.ts";
import { type AdapterDescription, describeAdapter } from "../../adapters/describe.ts";
import { methodOf } from "../../adapters/method-table.ts";
import { ADAPTER_CONFIG_NAME, innerAdapter, openAdapter } from "../../adapters/peft-files.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { hasWeights, openCheckpoint } from "../../formats/checkpoint.ts";
import { readJsonObject } from "../../formats/json.ts";
import { openBase, withHeadBeside } from "../../models/base.ts";
import { isMadeFor } from "../../models/fingerprint.ts";
import type { ModuleInfo } from "../../models/module.ts";
import {
  countParameters,
  forwardGraph,
  type ModelConfig,
  modelConfig,
  modulesOf,
  withStoredHead,
} from "../../models/registry.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";

export interface AdapterInspection extends AdapterDescription {
  kind: "adapter";
  /** Its method, and what that does. */
  method: string;
  about: string;
  config: LoraConfig;
  /** The names of the classes, in the order of the logits; null if the file names none. */
  labels: string[] | null;
  /** Of `parameters`, those of weights that are trained in full beside the factors, such as a classifier's head. */
  trainedInFull: number;
  /** Whether the base given is the one it was trained on; null if no base is given or the adapter does not say. */
  madeForBase: boolean | null;
}

export interface BaseInspection {
  kind: "base";
  config: ModelConfig;
  parameters: number;
  /** The embedding and the linear layers. */
  modules: ModuleInfo[];
  /** The weights on the disk; null if the folder has none. */
  weights: { tensors: number; bytes: number; dtypes: string[] } | null;
}

export interface InspectAdapterOptions {
  /** Folder of a base checkpoint to check the adapter against. */
  base?: string;
  /** Only check whether it was made for that base, where another base of the same shape would be refused. */
  anyBase?: boolean;
}

/** What the folder of an adapter holds; with `base` it is checked against that base. */
export async function inspectAdapter(
  files: Files,
  folder: string,
  { base: baseFolder, anyBase }: InspectAdapterOptions = {},
  limits?: Platform["adapterLimits"],
): Promise<AdapterInspection> {
  const file = await openAdapter(files, folder, limits);
  let madeForBase: boolean | null = null;
  if (baseFolder !== undefined) {
    const { base } = await prepareBase("inspect/option", await openBase(files, baseFolder), file.described, { anyBase });
    madeForBase = await isMadeFor(base, file.described.baseFingerprint);
  }
  const adapter = await file.read();
  const described = describeAdapter(adapter);
  const trainedInFull = described.modules.reduce((rest, module) => rest - module.parameters, described.parameters);
  const { title: method, about } = methodOf(adapter.config);
  const { config, labels = null } = adapter;
  return { kind: "adapter", method, about, config, labels, trainedInFull, madeForBase, ...described };
}

/** What a base model's folder holds. Needs config.json only. */
export async function inspectBase(files: Files, folder: string): Promise<BaseInspection> {
  const file = `${folder}/config.json`;
  const described = await withHeadBeside(files, folder, modelConfig(await readJsonObject(files, file), file));
  const stored = await hasWeights(files, folder);
  const all = stored ? (await openCheckpoint(files, folder)).tensors : null;
  const config = all ? withStoredHead(described, all) : described;
  // A head that is not there yet is no module of the base.
  const modules = modulesOf(forwardGraph(config)).filter(
    ({ isClassifierHead }) => !(isClassifierHead && config.uninitializedHead !== null),
  );
  const tensors = [...(all?.values() ?? [])];
  const bytes = tensors.reduce((sum, { length }) => sum + length, 0);
  const dtypes = [...new Set(tensors.map(({ dtype }) => dtype))].sort();
  const weights = stored ? { tensors: tensors.length, bytes, dtypes } : null;
  return { kind: "base", config, parameters: countParameters(config), modules, weights };
}

/** What a folder holds, whichever of the two it is. */
export async function inspect(
  files: Files,
  folder: string,
  options: InspectAdapterOptions = {},
): Promise<AdapterInspection | BaseInspection> {
  if (await files.exists(`${folder}/${ADAPTER_CONFIG_NAME}`)) return inspectAdapter(files, folder, options);
  if (await files.exists(`${folder}/config.json`)) return inspectBase(files, folder);
  throw new LowrankError("inspect/nothing", "the folder holds neither an adapter nor a base model", {
    subject: folder,
    expected: `${ADAPTER_CONFIG_NAME} or config.json`,
    got: (await files.exists(folder))
      ? (await files.list(folder)).slice(0, 12).join(", ") || "an empty folder"
      : "no such folder",
    next: await nextOf(files, folder),
  });
}

async function nextOf(files: Files, folder: string): Promise<string> {
  const inner = await innerAdapter(files, folder);
  return inner === undefined ? "Check the path." : `Give the folder of an adapter: ${inner}.`;
}
