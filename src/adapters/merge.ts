// Merging: W' = W + s·B·A, and every other byte of the checkpoint as it was. Follows PEFT's merge_and_unload and Transformers' sharding.
import { type Failure, LowrankError } from "../errors.ts";
import type { Files, LockFolder } from "../files.ts";
import { type Checkpoint, type CheckpointTensor, findTensor, INDEX_NAME, WEIGHTS_NAME } from "../formats/checkpoint.ts";
import { byteLength, bytesOf } from "../formats/dtypes.ts";
import { type FloatDType, fromFloat32, isFloat } from "../formats/float.ts";
import { writeFolder } from "../formats/folder.ts";
import { type TensorSource, writeSafetensors } from "../formats/safetensors.ts";
import { copySideFiles, readInBlocks } from "../formats/side-files.ts";
import { isPlain, readRows, transposed, writtenDType } from "../formats/stored.ts";
import type { ModuleInfo } from "../models/module.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import { bytes as size } from "../units.ts";
import type { AdapterModule } from "./match.ts";
import { methodOf } from "./method-table.ts";
import type { Adapter } from "./peft-files.ts";
import type { SavedTensor } from "./saved.ts";

/** Transformers' `max_shard_size`, "5GB". */
export const MAX_SHARD_BYTES = 5_000_000_000;
/** Bytes of a weight in float32 that are merged at once, about. */
const BLOCK_BYTES = 8 * 1024 * 1024;

/** One adapted weight and its low-rank update, `s·B·A`. */
export interface MergeTarget {
  /** The stored name of the base weight. */
  weightName: string;
  /** A, [rank, in]. */
  loraA: Float32Array;
  /** B, [out, rank]. */
  loraB: Float32Array;
  rank: number;
  /** s: alpha / rank, or alpha / sqrt(rank) with rsLoRA. */
  scale: number;
  /** The weight is stored as [in, out] (GPT-2's Conv1D, and embeddings). */
  fanInFanOut?: boolean;
  /** What the adapter's method makes of weight + s·B·A; it stays as it is if absent. */
  merge?: (blocks: WeightBlocks) => AsyncIterable<Float32Array>;
}

/** weight + s·B·A in float32, in blocks of rows as the weight is stored. */
export interface WeightBlocks {
  /** Length of a row. */
  columns: number;
  /** Rows of the whole. */
  rows: number;
  /** Whether rows are inputs (GPT-2's Conv1D, and embeddings), not outputs. */
  fanInFanOut: boolean;
  /** Reads them, anew at each call. */
  read(): AsyncIterable<Float32Array>;
}

/** The update of each adapted weight, by module path: not of those of experts. */
export function weightTargets(
  { config, modules: adapted, tensors }: Pick<Adapter, "config" | "modules" | "tensors">,
  modules: readonly ModuleInfo[],
  weightName: (name: string) => string,
): Map<string, MergeTarget> {
  const { merge } = methodOf(config);
  const byInputs = new Set(modules.filter(({ kind }) => kind === "embedding" || kind === "conv1d").map(({ path }) => path));
  const names = new Map(modules.map(({ path, weight = `${path}.weight` }) => [path, weight]));
  const targetOf = ({ path, rank, scale }: AdapterModule): MergeTarget => {
    const own = tensors.get(path)!;
    const { loraA, loraB } = own;
    const target = { weightName: weightName(names.get(path)!), loraA, loraB, rank, scale, fanInFanOut: byInputs.has(path) };
    return { ...target, ...(merge && { merge: (blocks) => merge(blocks, own) }) };
  };
  return new Map(adapted.filter(({ experts }) => experts === undefined).map((module) => [module.path, targetOf(module)]));
}

export interface MergeOptions {
  checkpoint: Checkpoint;
  targets: readonly MergeTarget[];
  /** Weights, or rows of them, that take the place of the base's, by stored name; a weight that the base lacks is added. */
  replaced?: ReadonlyMap<string, SavedTensor>;
  /** The text of config.json, if it is not the base's. */
  config?: string;
  outFolder: string;
  /** Stored names of weights that the model uses in two places (tied input and output embedding). */
  tiedWeights?: readonly string[];
  /** What floating weights are written in; each in its own dtype if absent. */
  dtype?: FloatDType;
  /** Size limit of a weight file; a tensor larger than it gets a file of its own. */
  maxShardBytes?: number;
  /** Writes more files into the folder before it is shown. */
  writeBeside?: (folder: string) => Promise<void>;
  /** Try even if the disk looks too small. */
  force?: boolean;
  /** Aborting ends the work with `merge/stopped`; nothing is left of it. */
  signal?: AbortSignal;
  /** Called after each tensor, with bytes. */
  onProgress?: (progress: { tensor: string; done: number; total: number }) => void;
}

/** What the host has for a large output. */
export interface MergeHost {
  lock?: LockFolder;
  freeDisk?: (folder: string) => Promise<number>;
}

/**
 * Writes the merged checkpoint to `outFolder`, whole or not at all: merged weights in the base's dtype, the other
 * tensors byte for byte, the config and tokenizer files. The base is only read; a few megabytes are in memory at once.
 * Errors: `merge/*`.
 */
export async function mergeIntoCheckpoint(files: Files, options: MergeOptions, host: MergeHost = {}): Promise<void> {
  const { checkpoint, outFolder, maxShardBytes = MAX_SHARD_BYTES, dtype: wanted, onProgress, signal } = options;
  const { tiedWeights = [] } = options;
  const targets = checkTargets(checkpoint, options.targets, tiedWeights);
  const replaced = options.replaced ?? new Map<string, SavedTensor>();
  for (const [name, { tied }] of replaced) if (tiedWeights.includes(name) && !tied) refuseTied(name);
  if (targets.size + replaced.size === 0)
    refuse("nothing", "the adapter has nothing to merge", { next: "Check that it is the right adapter." });
  const tensors = new Map([...checkpoint.tensors, ...newTensors(checkpoint, replaced)]);
  await refuseBaseFolder(files, checkpoint.folder, outFolder);
  const dtypeOf = (tensor: CheckpointTensor) => (wanted && isFloat(writtenDType(tensor)) ? wanted : writtenDType(tensor));
  const lengthOf = (tensor: CheckpointTensor) => byteLength(dtypeOf(tensor), tensor.shape);
  const total = [...tensors.values()].reduce((sum, tensor) => sum + lengthOf(tensor), 0);
  let done = 0;

  const source = (name: string): TensorSource => {
    const entry = tensors.get(name)!;
    const target = targets.get(name);
    const inside = partsOf(checkpoint, entry, targets);
    const whole = replaced.get(name);
    const { shape, file, offset, length } = entry;
    const dtype = dtypeOf(entry);
    const kept = isPlain(entry) && dtype === entry.dtype ? undefined : storedRows(files, entry);
    const own = inside ? partRows(files, inside) : whole ? replacedRows(files, entry, whole) : kept;
    const blocks = target ? mergedRows(files, entry, target, whole) : own;
    const data = async function* () {
      for await (const bytes of blocks
        ? mergedBytes(dtype as FloatDType, blocks, name)
        : readInBlocks(files, file, offset, length)) {
        checkStopped(signal);
        yield bytes;
      }
      done += lengthOf(entry);
      onProgress?.({ tensor: name, done, total });
    };
    return { name, dtype, shape, data };
  };

  const fill = async (folder: string) => {
    await copySideFiles(files, checkpoint.folder, folder);
    if (options.config !== undefined) await files.write(`${folder}/config.json`, new TextEncoder().encode(options.config));
    const written = new Map([...tensors].map(([name, tensor]) => [name, { length: lengthOf(tensor) }]));
    const shards = splitIntoShards(written, maxShardBytes);
    const metadata = { format: "pt", ...checkpoint.metadata };
    for (const { file, names } of shards) await writeSafetensors(files, `${folder}/${file}`, names.map(source), metadata);
    if (shards.length > 1) await files.write(`${folder}/${INDEX_NAME}`, encodeIndex(tensors, shards, total));
    await options.writeBeside?.(folder);
  };
  const check = async (folder: string) => {
    const free = await host.freeDisk?.(folder);
    if (free === undefined || free >= total || options.force) return;
    refuse("disk", "the merged model is larger than the free disk space", {
      subject: outFolder,
      expected: `${size(total)} for the weights`,
      got: `${size(free)} free`,
      next: "Choose an output folder on another disk, or try anyway (--force, force).",
    });
  };
  await writeFolder(files, outFolder, fill, { lock: host.lock, check });
}

/** Throws `merge/stopped` once `signal` has fired. */
export function checkStopped(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    refuse("stopped", "merging was stopped, and nothing is left of it", { exitCode: 1, next: "Run it again." });
}

function refuse(reason: string, message: string, facts: Failure): never {
  throw new LowrankError(`merge/${reason}`, message, facts);
}

const OTHER_BASE = "Check that the base is the adapter's own.";

/** The targets by weight name, each checked against its weight. */
function checkTargets(checkpoint: Checkpoint, targets: readonly MergeTarget[], tied: readonly string[]) {
  const byName = new Map<string, MergeTarget>();
  for (const target of targets) {
    const { weightName: subject, loraA, loraB, rank } = target;
    const { dtype, shape } = findTensor(checkpoint, subject);
    if (byName.has(subject)) {
      const next = "Combine the adapters first.";
      refuse("duplicate-target", "two updates for one weight", { subject, expected: "one", got: "two", next });
    }
    if (tied.includes(subject)) refuseTied(subject);
    if (!isFloat(writtenDType(findTensor(checkpoint, subject)))) {
      const facts = { subject, expected: "a float dtype", got: dtype, next: "Merge into the unquantised checkpoint." };
      refuse("dtype", "the weight is not stored in floating point", facts);
    }
    const [height, width] = rowsAndColumns(shape);
    const [rows, columns] = target.fanInFanOut ? [width, height] : [height, width];
    const fits = rank > 0 && loraA.length === rank * columns && loraB.length === rows * rank;
    if (!fits) {
      const got = `A of ${loraA.length}, B of ${loraB.length}, rank ${rank}, weight [${shape.join(", ")}]`;
      const facts = { subject, expected: "A [rank, in], B [out, rank]", got, next: OTHER_BASE };
      refuse("shape", "the update does not fit the weight", facts);
    }
    byName.set(subject, target);
  }
  return byName;
}

function refuseTied(subject: string): never {
  const next = "Give the output layer a weight of its own (--untie, untie), or use the adapter without merging it.";
  const got = "a weight that is both the input embedding and the output layer";
  const facts = { subject, expected: "a weight with one use", got, next };
  refuse("tied", "merging this weight would change the output layer as well", facts);
}

/** Entries for the replaced weights that the checkpoint lacks, in its first dtype. One that it has in another shape is refused. */
function newTensors(checkpoint: Checkpoint, replaced: ReadonlyMap<string, SavedTensor>): [string, CheckpointTensor][] {
  const dtype = [...checkpoint.tensors.values()].map(writtenDType).find(isFloat) ?? "float32";
  return [...replaced].flatMap(([name, { shape, rows }]): [string, CheckpointTensor][] => {
    const stored = rows ? findTensor(checkpoint, name) : checkpoint.tensors.get(name);
    if (stored && (rows ? [rows.length, ...stored.shape.slice(1)] : stored.shape).join() === shape.join()) return [];
    if (stored) {
      const facts = { subject: name, expected: `[${stored.shape.join(", ")}]`, got: `[${shape.join(", ")}]`, next: OTHER_BASE };
      refuse("shape", "the saved weight does not fit the one that it takes the place of", facts);
    }
    const length = sizeOf(shape) * bytesPerElement[dtype];
    return [[name, { dtype, shape: [...shape], offset: 0, length, file: "" }]];
  });
}

async function refuseBaseFolder(files: Files, base: string, out: string): Promise<void> {
  if (!(await files.exists(out)) || (await files.realPath(out)) !== (await files.realPath(base))) return;
  const facts = { subject: out, expected: "a new or an empty folder", next: "Choose another output folder." };
  refuse("out-is-base", "the output folder is the base checkpoint's own", facts);
}

/** The merged weight in float32, not yet rounded to the base's dtype: row blocks in the stored layout. `whole` replaces the weight. */
export function mergedRows(
  files: Files,
  entry: CheckpointTensor,
  target: MergeTarget,
  whole?: SavedTensor,
): AsyncIterable<Float32Array> {
  const blocks = weightBlocks(files, entry, target, whole);
  return target.merge ? target.merge(blocks) : blocks.read();
}

/** A weight that is a part of a stored tensor, and its update if it has one. */
interface Part {
  entry: CheckpointTensor;
  target: MergeTarget | undefined;
}

/** The weights that lie in a stored tensor, in their order, if any of them has a target. */
function partsOf({ parts }: Checkpoint, whole: CheckpointTensor, targets: ReadonlyMap<string, MergeTarget>): Part[] | null {
  const inside = [...(parts ?? [])]
    .filter(([, { file, offset }]) => file === whole.file && offset >= whole.offset && offset < whole.offset + whole.length)
    .map(([name, entry]): Part => ({ entry, target: targets.get(name) }));
  return inside.some(({ target }) => target) ? inside.sort((a, b) => a.entry.offset - b.entry.offset) : null;
}

async function* partRows(files: Files, parts: readonly Part[]): AsyncGenerator<Float32Array> {
  for (const { entry, target } of parts) yield* target ? mergedRows(files, entry, target) : storedRows(files, entry);
}

/** weight + s·B·A of a target. */
export function weightBlocks(files: Files, entry: CheckpointTensor, target: MergeTarget, whole?: SavedTensor): WeightBlocks {
  const [rows, columns] = rowsAndColumns(entry.shape);
  const read = () => plainRows(replacedRows(files, entry, whole), entry, target);
  return { rows, columns, fanInFanOut: target.fanInFanOut ?? false, read };
}

/** A weight's rows, with those of `whole` in their place. */
export async function* replacedRows(
  files: Files,
  entry: CheckpointTensor,
  whole: SavedTensor | undefined,
): AsyncGenerator<Float32Array> {
  if (whole && !whole.rows) {
    yield whole.data.slice();
    return;
  }
  const columns = sizeOf(entry.shape.slice(1));
  let first = 0;
  for await (const block of storedRows(files, entry)) {
    for (const [i, row] of (whole?.rows ?? []).entries()) {
      const at = (row - first) * columns;
      if (at >= 0 && at < block.length) block.set(whole!.data.subarray(i * columns, (i + 1) * columns), at);
    }
    yield block;
    first += block.length / columns;
  }
}

async function* plainRows(
  stored: AsyncIterable<Float32Array>,
  entry: CheckpointTensor,
  target: MergeTarget,
): AsyncGenerator<Float32Array> {
  const [rows, columns] = rowsAndColumns(entry.shape);
  const { loraA, loraB, rank, fanInFanOut } = target;
  // Stored [out, in]: left = B [out, r], right = A [r, in]. Stored [in, out]: left = Aᵀ [in, r], right = Bᵀ [r, out].
  const left = fanInFanOut ? transposed(loraA, rank, rows) : loraB;
  const right = fanInFanOut ? transposed(loraB, columns, rank) : loraA;
  const update = new Float64Array(columns);
  let row = 0;
  for await (const block of stored) {
    const count = block.length / columns;
    for (let i = 0; i < count; i++) {
      update.fill(0);
      for (let k = 0; k < rank; k++) {
        const factor = left[(row + i) * rank + k]!;
        if (factor === 0) continue;
        const offset = k * columns;
        for (let j = 0; j < columns; j++) update[j]! += factor * right[offset + j]!;
      }
      const offset = i * columns;
      for (let j = 0; j < columns; j++) block[offset + j]! += Math.fround(target.scale * update[j]!);
    }
    yield block;
    row += count;
  }
}

/** A weight as a matrix: a vector has one column, a kernel a row for each output. */
const rowsAndColumns = ([rows = 1, ...rest]: readonly number[]): [number, number] => [rows, sizeOf(rest)];

/** The values of a tensor, some megabytes of rows at a time. */
async function* storedRows(files: Files, entry: CheckpointTensor): AsyncGenerator<Float32Array> {
  const rows = entry.shape[0] ?? 1;
  const step = Math.max(1, Math.floor((BLOCK_BYTES * rows) / (4 * Math.max(1, sizeOf(entry.shape)))));
  for (let row = 0; row < rows; row += step) yield readRows(files, entry, row, Math.min(step, rows - row));
}

/** From here on a float32 value rounds to infinity. */
const OVERFLOW: Record<FloatDType, number> = {
  float64: Number.POSITIVE_INFINITY,
  float32: Number.POSITIVE_INFINITY,
  float16: 65520,
  bfloat16: 2 ** 128 - 2 ** 119,
};

/** Blocks of a weight in its stored dtype. */
async function* mergedBytes(
  dtype: FloatDType,
  blocks: Iterable<Float32Array> | AsyncIterable<Float32Array>,
  subject: string,
): AsyncGenerator<Uint8Array> {
  const limit = OVERFLOW[dtype];
  for await (const block of blocks) {
    const bad = block.find((value) => !(Math.abs(value) < limit));
    if (bad !== undefined) {
      const next = "Check the adapter: it is damaged or diverged in training, or does not belong to this base.";
      refuse("not-finite", `a merged value is not finite in ${dtype}`, { subject, got: `${bad}`, next, exitCode: 1 });
    }
    yield bytesOf(fromFloat32(block, dtype));
  }
}

/** Greedy, in the checkpoint's order, under Transformers' file names; a single file has no number. */
export function splitIntoShards(tensors: ReadonlyMap<string, { length: number }>, limit: number) {
  const sizes = [...tensors].map(([name, { length }]) => ({ name, size: length }));
  const groups = chunksOf(sizes, limit);
  const number = (value: number) => `${value}`.padStart(5, "0");
  return groups.map((group, i) => ({
    file: groups.length === 1 ? WEIGHTS_NAME : `model-${number(i + 1)}-of-${number(groups.length)}.safetensors`,
    names: group.map(({ name }) => name),
  }));
}

/** The items in groups of at most `limit` in size, in their order; a larger item is a group of its own. */
export function chunksOf<T extends { size: number }>(items: readonly T[], limit: number): T[][] {
  const chunks: T[][] = [];
  let size = Number.POSITIVE_INFINITY;
  for (const item of items) {
    if (size + item.size > limit) {
      chunks.push([]);
      size = 0;
    }
    chunks.at(-1)!.push(item);
    size += item.size;
  }
  return chunks;
}

export function encodeIndex(
  tensors: ReadonlyMap<string, { shape: readonly number[] }>,
  shards: ReturnType<typeof splitIntoShards>,
  total: number,
): Uint8Array {
  const pairs = shards.flatMap(({ file, names }) => names.map((name): [string, string] => [name, file]));
  const parameters = [...tensors.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const index = {
    metadata: { total_parameters: parameters, total_size: total },
    weight_map: Object.fromEntries(pairs.sort(([a], [b]) => (a < b ? -1 : 1))),
  };
  return new TextEncoder().encode(`${JSON.stringify(index, null, 2)}\n`);
}
