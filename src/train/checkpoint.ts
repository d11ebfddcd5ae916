// A training run on disk: checkpoint-<step>/ with the weights, the optimizer's exact bits and trainer_state.json, whole or absent.
import { z } from "zod";
import type { RunIdentity } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { damagedFile, type MakeDigest, SUMS_NAME, summing } from "../formats/checksums.ts";
import { bytesOf } from "../formats/dtypes.ts";
import { isNewer, readVersioned } from "../formats/json.ts";
import { readHeader, readTensor, writeSafetensors } from "../formats/safetensors.ts";
import { afterEval, type EvalHistory, noEvals } from "./evals.ts";
import type { Moments } from "./optimizer.ts";

/** All that the rest of a run depends on, besides its options. `step` counts the finished steps. */
export interface TrainState extends Moments {
  theta: Float32Array;
  evals: EvalHistory;
}

/** Writes the weights of `theta` as files that can be loaded into `folder`, which exists. `to` hashes what it writes. */
export type SaveWeights = (to: Files, folder: string, theta: Float32Array) => Promise<void>;

export const STATE_VERSION = 2;
/** The record of a checkpoint. */
export const STATE_FILE = "trainer_state.json";
const OPTIMIZER_FILE = "optimizer.safetensors";
/** Names of what is half-written or half-removed: checkpoints, and the files of `Files.write`. */
const LEFTOVER = /^\.(checkpoint-\d+\.(new|old)|lowrank-[\da-f-]{36}\.tmp|writable)$/;
const VECTORS = ["theta", "m", "v"] as const;

const evaluation = z.object({ step: z.int(), loss: z.number() });
const common = {
  step: z.int().nonnegative(),
  facts: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])),
  /** Size in bytes of every other file of the folder. */
  files: z.record(z.string(), z.int().nonnegative()),
};
/** Its size does not depend on the steps that are done; what happened at each is in the log of the run. */
const current = z.object({
  version: z.literal(STATE_VERSION),
  ...common,
  evals: z.object({ best: evaluation.nullable(), toBeat: z.number().nullable(), without: z.int().nonnegative() }),
});
/** Version 1 listed all evaluations, and all steps. */
const first = z.object({ version: z.literal(1), ...common, evals: z.array(evaluation) });
const record = z.discriminatedUnion("version", [current, first]);
/** What a whole checkpoint has, for errors. */
const COMPLETE = `${STATE_FILE} and every file it lists, at its size`;
type StateRecord = z.infer<typeof record>;

const folderOf = (out: string, step: number): string => `${out}/checkpoint-${step}`;

/**
 * Writes `out`/checkpoint-<step> and returns its path. The folder is made under a temporary name and renamed when every
 * file in it is on the disk; after a crash at any instant it is there whole or it is not there.
 */
export async function saveCheckpoint(
  files: Files,
  out: string,
  state: TrainState,
  facts: RunIdentity,
  saveWeights: SaveWeights,
  digest?: MakeDigest,
): Promise<string> {
  const { files: to, writeSums } = summing(files, digest);
  const folder = folderOf(out, state.step);
  const making = `${out}/.checkpoint-${state.step}.new`;
  await files.remove(making);
  await files.makeFolder(making);
  await saveWeights(to, making, state.theta);
  await writeSafetensors(
    to,
    `${making}/${OPTIMIZER_FILE}`,
    VECTORS.map((name) => ({ name, dtype: "float32", shape: [state[name].length], data: () => bytesOf(state[name]) })),
  );
  const sizes: Record<string, number> = {};
  for (const name of await filesBelow(files, making)) sizes[name] = await files.size(`${making}/${name}`);
  const { step, evals } = state;
  const saved: z.infer<typeof current> = { version: STATE_VERSION, step, facts, evals, files: sizes };
  await to.write(`${making}/${STATE_FILE}`, new TextEncoder().encode(`${JSON.stringify(saved, null, 2)}\n`));
  await writeSums(making);
  await discard(files, out, state.step);
  await files.rename(making, folder);
  return folder;
}

/** A file of a checkpoint, or one in a folder of it. */
const PATH_BELOW = /^(?!\.{1,2}\/)[^/]+(\/(?!\.{1,2}$)[^/]+)?$/;

/** The paths of the files in a folder and in the folders in it, sorted. */
async function filesBelow(files: Files, folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of (await files.list(folder)).sort()) {
    const inner = (await files.isFolder(`${folder}/${name}`)) ? await files.list(`${folder}/${name}`) : null;
    found.push(...(inner?.sort().map((file) => `${name}/${file}`) ?? [name]));
  }
  return found;
}

/**
 * The newest whole checkpoint of `out`, of those of a step before `end`. Folders that are not whole (a copy cut short, a crash's
 * leftovers) are passed over.
 */
export async function latestCheckpoint(
  files: Files,
  out: string,
  end = Number.POSITIVE_INFINITY,
): Promise<{ step: number; folder: string } | undefined> {
  for (const step of await checkpointSteps(files, out)) {
    if (step < end && (await readRecord(files, folderOf(out, step), step))) return { step, folder: folderOf(out, step) };
  }
  return undefined;
}

/**
 * The checkpoint a run into `out` goes on from, or null when it starts at the beginning. A folder that holds checkpoints
 * is refused when `resume` is false (another run's) and when none of them is whole (starting over would lose them). With `digest`
 * checksums are checked, and a damaged checkpoint is refused (`train/checkpoint-damaged`): an older one is never used in its place.
 */
export async function resumable(files: Files, out: string, resume: boolean, digest?: MakeDigest): Promise<string | null> {
  const found = await checkpointSteps(files, out);
  if (found.length === 0) return null;
  for (const step of resume ? found : []) {
    if (digest) await checkSums(files, out, step, digest);
    if (await readRecord(files, folderOf(out, step), step)) return folderOf(out, step);
  }
  throw new LowrankError("train/output", resume ? "no complete checkpoint to resume from" : "the folder holds another run", {
    subject: out,
    expected: resume ? `a checkpoint folder with ${STATE_FILE} and every file it lists` : "a folder without checkpoints",
    got: found.map((step) => `checkpoint-${step}`).join(", "),
    next: resume ? "Train into another folder." : "Resume that run, or train into another folder.",
  });
}

/**
 * The state saved in `folder`, to the bit. Throws `train/resume-mismatch` if a fact of the run that made it differs from
 * `facts`, naming the fact. `parameters` is the length of θ, `trained` that of the moments, `minDelta` what makes an evaluation better, for version 1.
 */
export async function loadCheckpoint(
  files: Files,
  folder: string,
  facts: RunIdentity,
  parameters: number,
  minDelta?: number,
  trained = parameters,
): Promise<TrainState> {
  const saved = await readRecord(files, folder);
  if (!saved) {
    const next = "Resume from another checkpoint.";
    throw new LowrankError("train/checkpoint", "not a complete checkpoint", { subject: folder, expected: COMPLETE, next });
  }
  for (const name of [...new Set([...Object.keys(saved.facts), ...Object.keys(facts)])].sort()) {
    if (saved.facts[name] === facts[name]) continue;
    throw new LowrankError("train/resume-mismatch", `the checkpoint was made with another value of ${name}`, {
      subject: folder,
      expected: `${name} = ${JSON.stringify(saved.facts[name])}`,
      got: `${name} = ${JSON.stringify(facts[name])}`,
      next: "Resume with the options the run was started with, or train into another folder; to continue its adapter, give --adapter (adapter).",
    });
  }
  const { step } = saved;
  const evals =
    saved.version === 1 ? saved.evals.reduce((before, one) => afterEval(before, one, minDelta), noEvals) : saved.evals;
  const vector = (name: (typeof VECTORS)[number], length: number) => readVector(files, folder, name, length);
  return { theta: await vector("theta", parameters), m: await vector("m", trained), v: await vector("v", trained), step, evals };
}

/**
 * Fails if a file of `out`/checkpoint-<step> is not what its checksum says, and names the newest older checkpoint that is all right.
 * One without checksums (of version 1, or of a host without them) is accepted.
 */
async function checkSums(files: Files, out: string, step: number, digest: MakeDigest): Promise<void> {
  const folder = folderOf(out, step);
  const damage = await damageOf(files, folder, digest);
  if (!damage) return;
  let older = await latestCheckpoint(files, out, step);
  while (older && (await damageOf(files, older.folder, digest))) older = await latestCheckpoint(files, out, older.step);
  throw new LowrankError("train/checkpoint-damaged", `a file of the checkpoint is damaged: ${damage.file}`, {
    subject: `${folder}/${damage.file}`,
    expected: damage.expected,
    got: damage.got,
    next: older
      ? `Remove ${folder}, or move it out of the folder, and resume: the run goes on from ${older.folder}, which is not damaged.`
      : "There is no older checkpoint that is not damaged: copy the folder again, or train into another.",
  });
}

async function damageOf(files: Files, folder: string, digest: MakeDigest) {
  try {
    return await damagedFile(files, folder, digest);
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    return { file: SUMS_NAME, expected: error.expected ?? "a file that can be read", got: error.got ?? error.message };
  }
}

/** θ of `out`/checkpoint-<step>, a checkpoint of the run at work. */
export async function loadTheta(
  files: Files,
  out: string,
  step: number,
  parameters: number,
  digest?: MakeDigest,
): Promise<Float32Array> {
  const folder = folderOf(out, step);
  if (digest) await checkSums(files, out, step, digest);
  if (await readRecord(files, folder, step)) return readVector(files, folder, "theta", parameters);
  throw new LowrankError("train/best", "the best evaluation's checkpoint is missing or incomplete", {
    subject: folder,
    expected: COMPLETE,
    next: "Resume the run with --no-load-best (loadBest: false): the result is then the last step's weights.",
    exitCode: 1,
  });
}

async function readVector(files: Files, folder: string, name: string, parameters: number): Promise<Float32Array> {
  const path = `${folder}/${OPTIMIZER_FILE}`;
  const entry = (await readHeader(files, path)).tensors.get(name);
  if (entry?.dtype === "float32" && entry.shape.length === 1 && entry.shape[0] === parameters) {
    return (await readTensor(files, path, entry)).data as Float32Array;
  }
  throw new LowrankError("train/checkpoint", `the tensor ${name} is not the one of this run`, {
    subject: path,
    expected: `float32 [${parameters}]`,
    got: entry ? `${entry.dtype} [${entry.shape.join(", ")}]` : "no such tensor",
    next: "Resume from another checkpoint.",
  });
}

/** Removes all but the newest `keep` checkpoints up to `step`, the one just written, and the one of step `best`. */
export async function pruneCheckpoints(files: Files, out: string, step: number, keep: number, best?: number): Promise<void> {
  const steps = (await checkpointSteps(files, out)).filter((other) => other <= step);
  for (const old of steps.slice(keep)) if (old !== best) await discard(files, out, old);
}

/** Removes what a killed run left half-written or half-removed in `out`. */
export async function removeLeftovers(files: Files, out: string): Promise<void> {
  for (const name of await files.list(out)) {
    if (LEFTOVER.test(name)) await files.remove(`${out}/${name}`);
  }
}

/** Removes a checkpoint so that a crash never leaves a part of it under its name. */
async function discard(files: Files, out: string, step: number): Promise<void> {
  if (!(await files.exists(folderOf(out, step)))) return;
  const leaving = `${out}/.checkpoint-${step}.old`;
  await files.remove(leaving);
  await files.rename(folderOf(out, step), leaving);
  await files.remove(leaving);
}

/** The steps of which `out` has a checkpoint folder, newest first. */
async function checkpointSteps(files: Files, out: string): Promise<number[]> {
  if (!(await files.exists(out))) return [];
  const digits = (await files.list(out)).flatMap((name) => /^checkpoint-(0|[1-9]\d{0,14})$/.exec(name)?.[1] ?? []);
  return digits.map(Number).sort((a, b) => b - a);
}

const parseRecord = async (files: Files, folder: string): Promise<StateRecord> =>
  record.parse(await readVersioned(files, `${folder}/${STATE_FILE}`, STATE_VERSION));

/** The other files of a checkpoint, by its record, and their sizes in bytes; null if it has none that can be read. */
export async function listedFiles(files: Files, folder: string): Promise<Record<string, number> | null> {
  if (!(await files.exists(`${folder}/${STATE_FILE}`))) return null;
  try {
    return (await parseRecord(files, folder)).files;
  } catch {
    return null;
  }
}

/** The record of a whole checkpoint; undefined if it can't be read or a file it lists is missing or has another size. */
async function readRecord(files: Files, folder: string, step?: number): Promise<StateRecord | undefined> {
  try {
    const saved = await parseRecord(files, folder);
    if ((step !== undefined && saved.step !== step) || !(OPTIMIZER_FILE in saved.files)) return undefined;
    for (const [name, bytes] of Object.entries(saved.files)) {
      if (!PATH_BELOW.test(name) || (await files.size(`${folder}/${name}`)) !== bytes) return undefined;
    }
    return saved;
  } catch (error) {
    if (isNewer(error)) throw error;
    return undefined;
  }
}
