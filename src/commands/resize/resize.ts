// An adapter's folder at another rank.
import { z } from "zod";
import { writeAdapterFolder } from "../../adapters/adapter-folder.ts";
import { readAdapter } from "../../adapters/peft-files.ts";
import { type Resized, truncateAdapter } from "../../adapters/resize.ts";
import type { Files } from "../../files.ts";
import { type Given, option } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";

export const resizeOptions = {
  adapter: option(z.string(), {
    value: "ADAPTER",
    model: true,
    help: "the adapter: its folder, or owner/name[@revision] on the hub",
  }),
  rank: option(z.int().optional(), { excludes: "energy", help: "the rank of every module, of those that have a higher one" }),
  energy: option(z.number().optional(), {
    value: "SHARE",
    excludes: "rank",
    help: "instead, the least rank of each module that keeps this share of its update's energy (the sum of the squared singular values)",
  }),
  output: option(z.string(), { value: "FOLDER", help: "a new or an empty folder" }),
};
export type ResizeAdapterOptions = Given<typeof resizeOptions>;

/** Truncates the updates of an adapter and writes the result's folder, which PEFT loads. Throws `resize/option`. */
export async function resizeAdapter(
  files: Files,
  { adapter: folder, output, ...options }: ResizeAdapterOptions,
  host: Pick<Platform, "digest" | "lock" | "adapterLimits"> = {},
): Promise<Resized> {
  const resized = truncateAdapter(await readAdapter(files, folder, host.adapterLimits), options);
  await writeAdapterFolder(files, output, resized.adapter, folder, host);
  return resized;
}
