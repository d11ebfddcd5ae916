// An adapter folder merged into its base: a checkpoint that needs no adapter.

import { mergeReplacements, mergeTargets } from "../../adapters/attach.ts";
import { type MergeOptions, mergeIntoCheckpoint } from "../../adapters/merge.ts";
import { readAdapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { type Checkpoint, storedName } from "../../formats/checkpoint.ts";
import { openBase } from "../../models/base.ts";
import { classifierCheckpoint } from "../../models/classifier-checkpoint.ts";
import { writeHead } from "../../models/heads/index.ts";
import { prepareBase, type TaskName } from "../../tasks/index.ts";

export interface MergeAdapterOptions extends Pick<MergeOptions, "maxShardBytes" | "onProgress"> {
  /** Folder of the base checkpoint; it is only read. */
  base: string;
  /** Folder of the adapter. */
  adapter: string;
  /** Take an adapter that was made for another base of the same shape. */
  anyBase?: boolean;
  /** What the adapter was trained for; it, or the base, says so if absent. */
  task?: TaskName;
  /** Folder of the merged checkpoint: a new or an empty one. */
  output: string;
}

/**
 * Writes the base with the adapter merged into its weights, in the base's dtype, with its config and tokenizer files. An adapter
 * that brings a classifier's head makes a classifier of the base: config.json says so.
 * Throws `adapter/*` if the adapter does not fit the base and `merge/*` if it cannot be merged; then nothing is written.
 */
export async function mergeAdapter(files: Files, options: MergeAdapterOptions): Promise<void> {
  const { base: folder, adapter: adapterFolder, anyBase, task, output, ...rest } = options;
  const given = await readAdapter(files, adapterFolder);
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
  const merging = { checkpoint, targets, replaced, tiedWeights, config: headed?.config, outFolder: output };
  await mergeIntoCheckpoint(files, { ...merging, ...rest });
  await writeHead(files, output, config);
}
