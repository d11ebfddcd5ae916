// An adapter folder merged into its base: a checkpoint that needs no adapter.

import { z } from "zod";
import { mergeReplacements, mergeTargets } from "../../adapters/attach.ts";
import { checkStopped, MAX_SHARD_BYTES, type MergeOptions, mergeIntoCheckpoint } from "../../adapters/merge.ts";
import { openAdapter } from "../../adapters/peft-files.ts";
import { ownName } from "../../adapters/saved.ts";
import type { Files } from "../../files.ts";
import { type Checkpoint, storedName } from "../../formats/checkpoint.ts";
import { summing } from "../../formats/checksums.ts";
import { openBase } from "../../models/base.ts";
import { classifierCheckpoint } from "../../models/classifier-checkpoint.ts";
import { type ConfigJson, configText, partsOfConfig, readConfigJson } from "../../models/config-text.ts";
import { writeHead } from "../../models/heads/index.ts";
import { tiedWeight, untied } from "../../models/untied-checkpoint.ts";
import { checkCounts, type Given, option, pick, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";
import { runOptions, taskOption } from "../../train/options.ts";
import { type Certificate, type CertifyOptions, certifyMerged, comparisonOptions, writeCertificate } from "../certify/certify.ts";

/** What merged weights can be written in, in Transformers' names. */
const outDtypes = ["float32", "bfloat16", "float16"] as const;
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
  outDtype: option(z.enum(outDtypes).optional(), { help: "what weights are written in; the base's own dtypes if absent" }),
  untie: option(z.boolean().default(false), {
    help: "give the output layer a weight of its own where it is the embedding, so that an adapter can change one of them",
  }),
  certify: option(z.enum(["full", "weights", "none"]).default("full"), {
    help: "what is compared with the base and the adapter afterwards: weights and outputs, weights, or nothing",
  }),
  ...comparisonOptions,
};
export type MergeAdapterOptions = Given<typeof mergeOptions> &
  Pick<MergeOptions, "onProgress" | "signal"> & { onCertify?: CertifyOptions["onProgress"] };

/**
 * Writes the base with the adapter merged into its weights, in the base's dtype or another, with its config and tokenizer files, and a
 * certificate beside them: whether weights and outputs are those of the base with the adapter. An adapter that brings a classifier's head
 * makes a classifier of the base: config.json says so. SHA256SUMS has their checksums. Resolves to the certificate, null if none was asked
 * for; the model is there even where it has failed.
 * Throws `adapter/*` if the adapter does not fit the base and `merge/*` if it cannot be merged; then nothing is written.
 */
export async function mergeAdapter(
  files: Files,
  options: MergeAdapterOptions,
  host: Partial<Platform> = {},
): Promise<Certificate | null> {
  const {
    base: folder,
    adapter: adapterFolder,
    anyBase,
    task,
    output,
    outDtype,
    untie = false,
    certify = "full",
    ...rest
  } = options;
  const { digest, adapterLimits, timeLimit } = host;
  checkCounts("merge/option", { maxShardBytes: options.maxShardBytes }, { least: MIN_SHARD_BYTES });
  const given = await openAdapter(files, adapterFolder, adapterLimits);
  const prepared = await prepareBase("merge/option", await openBase(files, folder, timeLimit), given, { task, anyBase });
  const { base, name } = prepared;
  const adapter = prepared.adapter!;
  const { config, modules } = base;
  const headed = adapter.saved ? await classifierCheckpoint(files, base) : null;
  const own: Checkpoint = headed?.checkpoint ?? base.checkpoint;
  const checkpoint = untie ? untied(base, own) : own;
  const stored = (weight: string) => storedName(checkpoint, ownName({ checkpoint, modules }, weight));
  const tied = untie ? null : tiedWeight(base, checkpoint);
  const { files: to, sumOf, writeSums } = summing(files, digest);
  const onCertify: MergeAdapterOptions["onCertify"] = (event) => {
    checkStopped(options.signal);
    options.onCertify?.(event);
  };
  let certificate: Certificate | null = null;
  const writeBeside = async (merged: string) => {
    await writeHead(to, merged, config);
    if (certify !== "none") {
      const compared = { base, adapter, adapterFolder, merged, task: name, outputs: certify === "full", sumOf };
      certificate = await certifyMerged(
        { ...compared, ...pick(options, "data", "tokens", "threads"), onProgress: onCertify },
        { ...host, files },
      );
      await writeCertificate(to, merged, certificate);
    }
    await writeSums(merged);
  };
  const merging = {
    checkpoint,
    targets: mergeTargets(adapter, modules, stored),
    replaced: mergeReplacements(adapter, modules, stored),
    tiedWeights: tied === null ? [] : [tied],
    dtype: outDtype,
    config: await changedConfig(files, folder, { json: headed?.config, outDtype, untie }),
    outFolder: output,
    writeBeside,
  };
  await mergeIntoCheckpoint(to, { ...merging, ...pick(rest, "maxShardBytes", "force", "onProgress", "signal") }, host);
  return certificate;
}

/** The text of the merged model's config.json; undefined if it is the base's. */
async function changedConfig(
  files: Files,
  folder: string,
  { json: given, outDtype, untie }: { json?: ConfigJson } & Pick<MergeAdapterOptions, "outDtype" | "untie">,
): Promise<string | undefined> {
  if (!given && !outDtype && !untie) return undefined;
  const json = given ?? (await readConfigJson(files, folder));
  for (const part of partsOfConfig(json)) {
    // Transformers 4 calls it torch_dtype.
    for (const key of outDtype ? ["dtype", "torch_dtype"] : []) if (part.has(key)) part.set(key, outDtype!);
    if (untie && (part === json || part.has("tie_word_embeddings"))) part.set("tie_word_embeddings", false);
  }
  if (outDtype && !json.has("dtype") && !json.has("torch_dtype")) json.set("dtype", outDtype);
  return configText(json);
}
