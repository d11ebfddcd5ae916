// The difference of two models as an adapter's folder.
import { z } from "zod";
import { writeAdapterFolder } from "../../adapters/adapter-folder.ts";
import { type Extracted, type ExtractOptions, extractAdapter } from "../../adapters/extract.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { openBase } from "../../models/base.ts";
import { headBeside } from "../../models/heads/index.ts";
import { checkCounts, type Given, option, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";
import { runOptions, taskOption } from "../../train/options.ts";

export const extractOptions = {
  base: runOptions.base,
  tuned: option(z.string(), {
    value: "FOLDER",
    model: true,
    help: "a model that was made from the base, such as by full fine-tuning",
  }),
  output: option(z.string(), { value: "FOLDER", help: "a new or an empty folder" }),
  rank: option(z.int().min(1).default(16), { help: "the highest rank of a module" }),
  energy: option(z.number().gt(0).max(1).optional(), {
    value: "SHARE",
    help: "the share of each change's energy (the sum of its squared elements) that is enough, where a lower rank keeps it",
  }),
  targetModules: reworded(runOptions.targetModules, { help: "the layers to look at; all linear ones if absent" }),
  task: taskOption,
};
export type ExtractAdapterOptions = Given<typeof extractOptions> & Pick<ExtractOptions, "onProgress">;

/** Writes an adapter that makes of the base what the tuned model is, as far as its rank goes. Throws `extract/*`. */
export async function extractIntoFolder(
  files: Files,
  { base: folder, tuned: other, output, task: given, rank = 16, energy, targetModules, onProgress }: ExtractAdapterOptions,
  host: Pick<Platform, "digest" | "lock" | "timeLimit"> = {},
): Promise<Extracted> {
  checkCounts("extract/option", { rank });
  const prepared = await prepareBase("extract/option", await openBase(files, folder, host.timeLimit), null, { task: given });
  const tuned = await prepareBase("extract/option", await openBase(files, other, host.timeLimit), null, { task: prepared.name });
  const { name, task } = prepared;
  const choice = { rank, energy, targetModules: targetModules ?? "all-linear", ...task.peft, onProgress };
  const extracted = await extractAdapter(files, prepared.base, tuned.base, choice);
  const named = { task: name, ...(task.classes && { labels: [...tuned.base.config.labels] }) };
  const head = await headBeside(files, other);
  const adapter: Adapter = { ...extracted.adapter, ...named, ...(head && { head }) };
  await writeAdapterFolder(files, output, adapter, other, host);
  return { ...extracted, adapter };
}
