// PEFT's folder of an adapter: what lowrank trains and serves.
import { ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, readAdapter, writeAdapter } from "../../adapters/peft-files.ts";
import type { AdapterFormat } from "./format.ts";

export const peft: AdapterFormat = {
  title: "PEFT",
  isAt: async (files, path) =>
    (await files.exists(`${path}/${ADAPTER_CONFIG_NAME}`)) && files.exists(`${path}/${ADAPTER_WEIGHTS_NAME}`),
  read: (files, path, _base, limits) => readAdapter(files, path, limits),
  write: { run: writeAdapter },
};
