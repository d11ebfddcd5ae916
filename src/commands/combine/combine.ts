// Folders of adapters made one.
import { z } from "zod";
import { writeAdapterFolder } from "../../adapters/adapter-folder.ts";
import { combinationTypes, majoritySignMethods } from "../../adapters/combinations.ts";
import { combine, DEFAULT_SEED } from "../../adapters/combine.ts";
import { type Adapter, openAdapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { openBase } from "../../models/base.ts";
import { type Given, option, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";
import { runOptions } from "../../train/options.ts";

export const combineOptions = {
  adapters: option(z.array(z.string()), {
    value: "ADAPTER",
    model: true,
    help: "adapters of one base: their folders, or owner/name[@revision] on the hub",
  }),
  weights: option(z.array(z.number()).optional(), {
    value: "N,…",
    commas: true,
    expected: "numbers with commas between them, one for each adapter",
    help: "how much each adapter counts, negative to subtract it (1 each)",
  }),
  combinationType: option(z.enum(combinationTypes).default("svd"), { help: "how, as in PEFT's add_weighted_adapter" }),
  svdRank: option(z.int().optional(), {
    help: "rank of the result of svd and the types that end in it (the largest of the adapters')",
  }),
  density: option(z.number().optional(), { help: "share of the elements that ties, dare and magnitude_prune keep, up to 1" }),
  majoritySignMethod: option(z.enum(majoritySignMethods).default("total"), {
    help: "what elects a sign in ties: the sum of values, or of signs",
  }),
  seed: option(z.int().default(DEFAULT_SEED), { help: "what dare draws the elements by that it keeps" }),
  base: reworded(runOptions.base.optional(), { help: "check the adapters against this base, and name their modules as it does" }),
  anyBase: reworded(runOptions.anyBase, { help: "combine adapters that were made for different bases of one shape" }),
  output: option(z.string(), { value: "FOLDER", help: "a new or an empty folder" }),
};
export type CombineAdaptersOptions = Given<typeof combineOptions>;

/** Combines adapters and writes the result's folder, which PEFT loads. Errors: `combine/*`; then nothing is written. */
export async function combineAdapters(
  files: Files,
  { adapters: folders, base: baseFolder, output, ...options }: CombineAdaptersOptions,
  host: Pick<Platform, "digest" | "lock" | "adapterLimits" | "timeLimit"> = {},
): Promise<Adapter> {
  const base = baseFolder === undefined ? null : await openBase(files, baseFolder, host.timeLimit);
  const adapters: Adapter[] = [];
  for (const folder of folders) {
    const given = await openAdapter(files, folder, host.adapterLimits);
    const { anyBase } = options;
    adapters.push(base ? (await prepareBase("combine/option", base, given, { anyBase })).adapter! : await given.read());
  }
  const combined = combine(adapters, options);
  const headFrom = folders[adapters.findIndex(({ head }) => head === combined.head)]!;
  await writeAdapterFolder(files, output, combined, headFrom, host);
  return combined;
}
