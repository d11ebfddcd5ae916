// An adapter folder merged into its base: a checkpoint that needs no adapter.

import { z } from "zod";
import { mergeReplacements, mergeTargets } from "../../adapters/attach.ts";
import { MAX_SHARD_BYTES, type MergeHost, type MergeOptions, mergeIntoCheckpoint } from "../../adapters/merge.ts";
import { openAdapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { type Checkpoint, storedName } from "../../formats/checkpoint.ts";
import { summing } from "../../formats/checksums.ts";
import { openBase } from "../../models/base.ts";
import { classifierCheckpoint } from "../../models/classifier-checkpoint.ts";
import { writeHead } from "../../models/heads/index.ts";
import { checkCounts, type Given, option, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";
import { runOptions, taskOption } from "../../train/options.ts";

/** Smaller files of weights are refused: each tensor would be one, and a model has thousands. */
const MIN_SHARD_BYTES = 1_000_000;

/** The base and the adapter are only read. */
export const mergeOptions = {
  base: runOptions.base,
  adapter: option(z.string(), { value: "ADAPTER", model: true, help: "the adapter" }),
  anyBase: runOptions.anyBase,
  task: taskOption,
  output: option(z.string(), { value: "FOLDER", help: "a new or an empty folder" }),
  maxShardBytes: option(z.int().min(MIN_SHARD_BYTES).default(MAX_SHARD_BYTES), { value: "BYTES", help: "largest weight file" }),
  force: reworded(runOptions.force, { help: "merge even if the disk looks too small" }),
};
export type MergeAdapterOptions = Given<typeof mergeOptions> & Pick<MergeOptions, "onProgress" | "signal">;

/**
 * Writes the base with the adapter merged into its weights, in the base's dtype, with its config and tokenizer files. An adapter
 * that brings a classifier's head makes a classifier of the base: config.json says so. SHA256SUMS has their checksums.
 * Throws `adapter/*` if the adapter does not fit the base and `merge/*` if it cannot be merged; then nothing is written.
 */
export async function mergeAdapter(
  files: Files,
  options: MergeAdapterOptions,
  host: MergeHost & Pick<Platform, "digest" | "adapterLimits"> = {},
): Promise<void> {
  const { base: folder, adapter: adapterFolder, anyBase, task, output, ...rest } = options;
  checkCounts("merge/option", { maxShardBytes: options.maxShardBytes }, { least: MIN_SHARD_BYTES });
  const given = await openAdapter(files, adapterFolder, host.adapterLimits);
  const prepared = await prepareBase("merge/option", await openBase(files, folder), given, { task, anyBase });
  const { base } = prepared;
  const adapter = prepared.adapter!;
  const { config, modules } = base;
  const headed = adapter.saved ? await classifierCheckpoint(files, base) : null;
  const checkpoint: Checkpoint = headed?.checkpoint ?? base.checkpoint;
  const stored = (name: string) => storedName(checkpoint, name);
  const targets = mergeTargets(adapter, modules, stored);
  const replaced = mergeReplacements(adapter, stored);
  const embedding = modules.find(({ kind }) => kind === "embedding");
  const tiedWeights =
    "tieWordEmbeddings" in config && config.tieWordEmbeddings && embedding
      ? [storedName(checkpoint, `${embedding.path}.weight`)]
      : [];
  const { files: to, writeSums } = summing(files, host.digest);
  const writeBeside = async (folder: string) => {
    await writeHead(to, folder, config);
    await writeSums(folder);
  };
  const merging = { checkpoint, targets, replaced, tiedWeights, config: headed?.config, outFolder: output, writeBeside };
  await mergeIntoCheckpoint(to, { ...merging, ...rest }, host);
}
