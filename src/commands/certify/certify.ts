// A certificate of a merged model: that its weights and its outputs are those of the base with the adapter.
import { z } from "zod";
import { type Adapter, openAdapter } from "../../adapters/peft-files.ts";
import { makeBatch } from "../../data/batch.ts";
import type { Batch } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import { sumFile } from "../../formats/checksums.ts";
import { type AnyBase, openBase } from "../../models/base.ts";
import { visionOf } from "../../models/registry.ts";
import { type Given, option, pick } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { uniform } from "../../random.ts";
import { baseFor, prepareBase, type TaskName, taskOf } from "../../tasks/index.ts";
import { dataReader, finished } from "../../train/datasets.ts";
import { runOptions, taskOption } from "../../train/options.ts";
import { compareOutputs, type Difference } from "./behaviour.ts";
import { type Bound, boundsOf } from "./bounds.ts";
import { certificatePage } from "./page.ts";
import { builtInTexts } from "./texts.ts";
import { compareWeights, type WeightReport } from "./weights.ts";

/** The files of a certificate. */
export const CERTIFICATE_NAME = "certificate.json";
const PAGE_NAME = "certificate.html";
/** Tokens that are run at once, if the model takes as many; and the most in all. Logits of all are in memory. */
const ROW_TOKENS = 256;
const MAX_TOKENS = 65_536;

/** Of whatever compares a merged model. */
export const comparisonOptions = {
  data: option(z.string().optional(), {
    value: "FILE",
    help: "records whose outputs are compared; texts that come with lowrank, of a language model, if absent",
  }),
  tokens: option(z.int().min(1).max(MAX_TOKENS).default(512), { help: "tokens that are compared, or examples without tokens" }),
  threads: runOptions.threads,
};

export const certifyOptions = {
  base: runOptions.base,
  adapter: option(z.string(), { value: "ADAPTER", model: true, help: "the adapter" }),
  merged: option(z.string(), { value: "FOLDER", model: true, help: "what is said to be both merged" }),
  anyBase: runOptions.anyBase,
  task: taskOption,
  ...comparisonOptions,
  output: option(z.string().optional(), { value: "FOLDER", help: `write ${CERTIFICATE_NAME} and ${PAGE_NAME} there` }),
};
export type CertifyOptions = Given<typeof certifyOptions> & { onProgress?: OnProgress };
type OnProgress = (event: CertifyProgress) => void;
export type CertifyProgress =
  | { type: "weights"; tensor: string; done: number; total: number }
  | { type: "outputs"; row: number; rows: number };

/** What was compared, and whether it holds. */
export interface Certificate {
  certificate: 1;
  /** The version that compared. */
  lowrank: string | null;
  base: { folder: string; fingerprint: string };
  adapter: { folder: string; sha256: Record<string, string> };
  merged: { sha256: Record<string, string> };
  weights: WeightReport;
  /** Null where nothing could be run: a model that reads no texts, without data. */
  outputs: { source: string; rows: number; merged: Difference[]; base: Difference[] | null } | null;
  bounds: Bound[];
  passed: boolean;
}

/**
 * Compares a merged model with its base and adapter, whoever merged them: each weight with W + s·B·A in its dtype, and the outputs on the
 * user's records or on texts that come with lowrank. Throws for folders that are no such models; what differs is in the certificate.
 */
export async function certify(options: CertifyOptions, platform: Platform): Promise<Certificate> {
  const { files, timeLimit, adapterLimits } = platform;
  const given = await openAdapter(files, options.adapter, adapterLimits);
  const opened = await openBase(files, options.base, timeLimit);
  const { base, adapter, name } = await prepareBase("certify/option", opened, given, pick(options, "task", "anyBase"));
  const found = await certifyMerged(
    { ...options, base, adapter: adapter!, adapterFolder: options.adapter, task: name },
    platform,
  );
  if (options.output !== undefined) await writeCertificate(files, options.output, found);
  return found;
}

/** What the host has for it; without an engine outputs are not compared. */
type Host = Pick<Platform, "files"> & Partial<Platform>;

/** What `certifyMerged` compares, opened. */
export interface ToCertify extends Pick<CertifyOptions, "data" | "tokens" | "threads" | "onProgress"> {
  base: AnyBase;
  adapter: Adapter;
  adapterFolder: string;
  merged: string;
  task: TaskName;
  /** Whether outputs are compared, too. */
  outputs?: boolean;
  /** The SHA-256 of a file of `merged`, where it is known. */
  sumOf?: (path: string) => string | undefined;
}

/** The certificate of what lies in the folder `merged`. */
export async function certifyMerged(options: ToCertify, platform: Host): Promise<Certificate> {
  const { base, adapter, adapterFolder, task, onProgress } = options;
  const { files, timeLimit, openSession } = platform;
  const merged = baseFor(await openBase(files, options.merged, timeLimit), task);
  const weights = await compareWeights(files, {
    ...{ base, adapter, merged },
    onProgress: (progress) => onProgress?.({ type: "weights", ...progress }),
  });
  const rows = openSession && options.outputs !== false ? await rowsToCompare(options, platform) : null;
  // What lacks a weight cannot be run.
  const isWhole = !weights.problems.some((problem) => /: (the merged checkpoint lacks|expected \[)/.test(problem));
  const compared =
    rows && isWhole
      ? await compareOutputs({
          ...{ base, adapter, merged, batches: rows.batches },
          engine: { openSession: openSession!, threads: options.threads, stages: platform.stages },
          onProgress: (progress) => onProgress?.({ type: "outputs", ...progress }),
        })
      : null;
  const outputs = compared && { source: rows!.source, rows: rows!.batches.length, ...compared };
  const bounds = boundsOf(weights, outputs?.merged ?? [], outputs?.base ?? null);
  return {
    certificate: 1,
    lowrank: platform.version ?? null,
    base: { folder: base.checkpoint.folder, fingerprint: await base.fingerprint() },
    adapter: { folder: adapterFolder, sha256: await sumsOf(platform, adapterFolder) },
    merged: { sha256: await sumsOf(platform, options.merged, options.sumOf) },
    weights,
    outputs,
    bounds,
    passed: bounds.every(({ holds }) => holds),
  };
}

/** Writes a certificate and its page into a folder. */
export async function writeCertificate(files: Platform["files"], folder: string, certificate: Certificate): Promise<void> {
  await files.makeFolder(folder);
  await files.write(`${folder}/${CERTIFICATE_NAME}`, new TextEncoder().encode(`${JSON.stringify(certificate, null, 2)}\n`));
  await files.write(`${folder}/${PAGE_NAME}`, new TextEncoder().encode(certificatePage(certificate)));
}

/** What a failed certificate is refused with. */
export const certificateFailure = ({ bounds, weights }: Certificate, subject: string): LowrankError => {
  const broken = bounds.filter(({ holds }) => !holds);
  const [first] = weights.problems;
  return new LowrankError("certify/failed", "the merged model is not the base with the adapter", {
    subject,
    expected: broken.map(({ what, limit }) => `${what}: ${limit}`).join("; "),
    got: `${broken.map(({ found }) => String(found)).join("; ")}${first ? ` (${first})` : ""}`,
    next: "See certificate.html. Merge again, into float32 (--out-dtype float32) where it is rounding that is too coarse.",
    exitCode: 1,
  });
};

/** Rows of the user's records, or of texts that come with lowrank; null where there are none for the model. */
async function rowsToCompare(
  { base, task: name, data, tokens = 512 }: ToCertify,
  platform: Host,
): Promise<{ source: string; batches: Batch[] } | null> {
  const { files } = platform;
  if (data === undefined) {
    if (base.config.head !== "lm" || visionOf(base.config)) return null;
    const { source, rows, padId } = await builtInRows(base);
    const batches: Batch[] = [];
    let left = tokens;
    for (const row of rows) {
      const ids = row.subarray(0, Math.min(ROW_TOKENS, left, base.config.maxPositions));
      left -= ids.length;
      if (ids.length > 1) batches.push(makeBatch([[{ ids, labels: ids }]], { padId }));
    }
    return { source, batches };
  }
  const task = taskOf(name);
  const maxLength = Math.min(ROW_TOKENS, tokens);
  const options = { ...defaults, maxLength, fixedClasses: true };
  const reader = dataReader(files, await task.data(base, options, platform));
  try {
    const { examples } = await finished(reader.read(data));
    const collator = reader.collate(examples);
    const batches: Batch[] = [];
    let left = tokens;
    for (let row = 0; row < collator.lengths.length && left > 0; row++) {
      batches.push(await collator.batch([row]));
      left -= Math.max(1, collator.lengths[row]!);
    }
    return { source: data, batches };
  } finally {
    await reader.close();
  }
}

/** Rows of tokens: texts that come with lowrank, or of a base without a tokenizer any tokens. */
async function builtInRows(base: AnyBase): Promise<{ source: string; rows: Int32Array[]; padId: number }> {
  try {
    const tokenizer = await base.tokenizer();
    const rows = builtInTexts.map((text) => tokenizer.encode(text));
    return { source: "texts that come with lowrank", rows, padId: tokenizer.padId };
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code !== "tokenizer/missing") throw error;
  }
  const row = (_: unknown, i: number) =>
    Int32Array.from(uniform(i, [0, 0, 0], ROW_TOKENS), (share) => Math.floor(share * base.config.vocabSize));
  return { source: "tokens drawn at random, as the base has no tokenizer", rows: builtInTexts.map(row), padId: 0 };
}

const defaults = { trainOn: "completion" as const };

/** SHA-256 of the weight files and the configuration in a folder. */
async function sumsOf(
  { files, digest }: Host,
  folder: string,
  known: ToCertify["sumOf"] = () => undefined,
): Promise<Record<string, string>> {
  if (!digest) return {};
  const names = (await files.list(folder)).filter((name) => /\.(safetensors|json|gguf)$/.test(name) && name !== CERTIFICATE_NAME);
  const sums: [string, string][] = [];
  for (const name of names.sort()) {
    const file = `${folder}/${name}`;
    if (await files.isFolder(file)) continue;
    sums.push([name, known(file) ?? (await sumFile(files, file, digest))]);
  }
  return Object.fromEntries(sums);
}
