// PEFT's folder of an adapter: what lowrank trains and serves.
import { fillAdapterFolder } from "../../adapters/adapter-folder.ts";
import { ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, readAdapter } from "../../adapters/peft-files.ts";
import { hasWeights } from "../../formats/checkpoint.ts";
import type { AdapterFormat } from "./format.ts";

export const peft: AdapterFormat = {
  title: "PEFT",
  // Without its weights too, of which reading says what they are instead; a model's folder may have the configuration of what it is made of.
  isAt: async (files, path) =>
    (await files.exists(`${path}/${ADAPTER_CONFIG_NAME}`)) &&
    ((await files.exists(`${path}/${ADAPTER_WEIGHTS_NAME}`)) || !(await hasWeights(files, path))),
  read: (files, path, _base, limits) => readAdapter(files, path, limits),
  write: { run: (files, folder, adapter, _base, from) => fillAdapterFolder(files, folder, adapter, from) },
};
