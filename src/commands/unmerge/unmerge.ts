// A merged model back to its base: W = W' − s·B·A, in the merged model's dtype.
import { z } from "zod";
import { mergeTargets } from "../../adapters/attach.ts";
import { type MergeOptions, mergeIntoCheckpoint } from "../../adapters/merge.ts";
import { methodOf } from "../../adapters/method-table.ts";
import { openAdapter } from "../../adapters/peft-files.ts";
import { isResidual } from "../../adapters/residual.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { storedName } from "../../formats/checkpoint.ts";
import { summing } from "../../formats/checksums.ts";
import { openBase } from "../../models/base.ts";
import { writeHead } from "../../models/heads/index.ts";
import { tiedWeight } from "../../models/untied-checkpoint.ts";
import { type Given, option, pick } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";
import { mergeOptions } from "../merge/merge.ts";

export const unmergeOptions = {
  merged: option(z.string(), { value: "FOLDER", model: true, help: "the merged model" }),
  adapter: option(z.string(), { value: "ADAPTER", model: true, help: "the adapter that was merged into it" }),
  output: mergeOptions.output,
  outDtype: mergeOptions.outDtype,
  maxShardBytes: mergeOptions.maxShardBytes,
  force: mergeOptions.force,
};
export type UnmergeAdapterOptions = Given<typeof unmergeOptions> & Pick<MergeOptions, "onProgress" | "signal">;

/**
 * Writes the base of a merged model: what merging added is subtracted again. It is the base up to rounding, twice that of the model's
 * dtype. Throws `unmerge/lost` for what merging cannot be undone of: weights that took the place of the base's (modules_to_save), and
 * methods that change more than they add (DoRA), and first values of the base that were taken off it (PiSSA, OLoRA), unless PEFT converted the
 * adapter.
 */
export async function unmergeAdapter(files: Files, options: UnmergeAdapterOptions, host: Partial<Platform> = {}): Promise<void> {
  const { merged: folder, output } = options;
  const given = await openAdapter(files, options.adapter, host.adapterLimits);
  const { config } = given.described;
  if (isResidual({ config }))
    throw lost(options.adapter, `one whose first values (${config.initLoraWeights}) are computed from the base`);
  // A merged model is not the base that the adapter was made for: that is what is asked for.
  const prepared = await prepareBase("merge/option", await openBase(files, folder, host.timeLimit), given, { anyBase: true });
  const { base, adapter } = prepared;
  const { title, merge } = methodOf(adapter!.config);
  if (merge) throw lost(options.adapter, `an adapter of ${title}, which changes more of a weight than it adds`);
  const [saved] = adapter!.saved?.keys() ?? [];
  if (saved !== undefined) throw lost(options.adapter, `${saved}, which took the place of the base's`);
  const { checkpoint } = base;
  const targets = mergeTargets(adapter!, base.modules, (name) => storedName(checkpoint, name));
  const tied = tiedWeight(base, checkpoint);
  const { files: to, writeSums } = summing(files, host.digest);
  const writeBeside = async (written: string) => {
    await writeHead(to, written, base.config);
    await writeSums(written);
  };
  const unmerging = {
    checkpoint,
    targets: targets.map((target) => ({ ...target, scale: -target.scale })),
    tiedWeights: tied === null ? [] : [tied],
    dtype: options.outDtype,
    outFolder: output,
    writeBeside,
  };
  await mergeIntoCheckpoint(to, { ...unmerging, ...pick(options, "maxShardBytes", "force", "onProgress", "signal") }, host);
}

const lost = (subject: string, got: string): LowrankError =>
  new LowrankError("unmerge/lost", "what merging replaced is not in the merged model", {
    subject,
    expected: "an adapter that adds to weights and replaces none",
    got,
    next: "Take the base itself.",
  });
