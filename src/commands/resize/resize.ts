// An adapter's folder at another rank, and what that costs in loss.
import { z } from "zod";
import { writeAdapterFolder } from "../../adapters/adapter-folder.ts";
import { readAdapter } from "../../adapters/peft-files.ts";
import { type Resized, truncateAdapter } from "../../adapters/resize.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { type Given, option, pick, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { readingOptions, runOptions } from "../../train/options.ts";
import { evaluate } from "../eval/evaluate.ts";

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
  data: reworded(runOptions.data.optional(), { help: "measure the loss on these records before and after; needs --base" }),
  base: reworded(runOptions.base.optional(), { help: "the base that the loss is measured with" }),
  ...pick(runOptions, "anyBase", "threads"),
  batchSize: option(z.number().optional(), { help: "with --data, rows that are run at once (what the task does)" }),
  ...readingOptions,
};
export type ResizeAdapterOptions = Given<typeof resizeOptions>;

/** With `losses` on the data, in nats, where data were given. */
export interface ResizedAdapter extends Resized {
  losses: { base: number | null; before: number; after: number } | null;
}

/**
 * Truncates the updates of an adapter and writes the result's folder, which PEFT loads; with `data`, measures the loss of both. Throws
 * `resize/option`, and what `evaluate` does.
 */
export async function resizeAdapter(
  files: Files,
  { adapter: folder, output, rank, energy, data, base, ...reading }: ResizeAdapterOptions,
  host: Platform,
): Promise<ResizedAdapter> {
  if (data !== undefined && base === undefined) {
    const next = "Give the base that the adapter was trained on (--base).";
    throw new LowrankError("resize/option", "the loss can't be measured without the base", { subject: "base", next });
  }
  const before = await readAdapter(files, folder, host.adapterLimits);
  const resized = truncateAdapter(before, { rank, energy });
  await writeAdapterFolder(files, output, resized.adapter, folder, host);
  if (data === undefined) return { ...resized, losses: null };
  const lossesOf = async (adapter: string) => {
    const scores = await evaluate({ ...reading, base: base!, data, adapter }, host);
    return { base: scores.base?.loss ?? null, adapter: scores.adapter!.loss };
  };
  const [old, own] = [await lossesOf(folder), await lossesOf(output)];
  return { ...resized, losses: { base: old.base, before: old.adapter, after: own.adapter } };
}
