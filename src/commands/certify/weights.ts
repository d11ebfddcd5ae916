// Whether a merged checkpoint's weights are what merging should have written, tensor by tensor: W + s·B·A where the adapter is, else W.
import { mergeReplacements, mergeTargets } from "../../adapters/attach.ts";
import { type MergeTarget, mergedRows } from "../../adapters/merge.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import { ownName, type SavedTensor } from "../../adapters/saved.ts";
import type { Files } from "../../files.ts";
import { type CheckpointTensor, entryOf } from "../../formats/checkpoint.ts";
import { type FloatDType, fromFloat32, isFloat, toFloat32 } from "../../formats/float.ts";
import { readRows } from "../../formats/stored.ts";
import type { AnyBase } from "../../models/base.ts";
import { weightsIn } from "../../models/module.ts";
import { forwardGraph } from "../../models/registry.ts";

/** Elements of a weight that are compared at once, about: 8 MB of float32. */
const BLOCK_ELEMENTS = 2 ** 21;
/**
 * How far an element may be from the exact sum: two roundings of its size, as where another program rounds the update first, and a share
 * of the largest update in its block, for sums in another order.
 */
const ROUNDING: Record<FloatDType, { ofValue: number; ofUpdate: number }> = {
  float64: { ofValue: 2 ** -21, ofUpdate: 1e-5 },
  float32: { ofValue: 2 ** -21, ofUpdate: 1e-5 },
  float16: { ofValue: 2 ** -10, ofUpdate: 2 ** -7 },
  bfloat16: { ofValue: 2 ** -7, ofUpdate: 2 ** -6 },
};
/** The smallest step of float16. */
const LEAST_STEP = 2 ** -24;
/** How much of an update may be missing or too much beside what rounding takes, in standard errors and at least. */
const ERRORS = 6;
const LEAST_SHARE = 0.02;

/** A weight that the adapter changes. */
export interface MergedWeight {
  name: string;
  dtype: string;
  /** How much of the update is in the merged weight: ⟨written − W, ΔW⟩ / ‖ΔW‖². Rounding takes what is smaller than half a step. */
  arrived: number;
  /** How much would be, of exactly merged values rounded once to this dtype. */
  possible: number;
  /** ‖written − (W + ΔW)‖ / ‖ΔW‖: what rounding adds and takes, beside the update. */
  error: number;
}

export interface WeightReport {
  /** Weights of the model that were compared. */
  compared: number;
  /** Those that the adapter changes. */
  merged: MergedWeight[];
  /** What is not as it should be, with the weight's name. */
  problems: string[];
}

interface Compared {
  base: AnyBase;
  adapter: Adapter;
  merged: AnyBase;
  onProgress?: (progress: { tensor: string; done: number; total: number }) => void;
}

/** Compares every weight that the merged model reads with the base and the adapter. */
export async function compareWeights(files: Files, { base, adapter, merged, onProgress }: Compared): Promise<WeightReport> {
  const targets = new Map(mergeTargets(adapter, base.modules).map((target) => [target.weightName, target]));
  const report: WeightReport = { compared: 0, merged: [], problems: [] };
  const names = [...new Set(weightsIn(forwardGraph(merged.config)).map(({ name }) => name))];
  const replaced = mergeReplacements(adapter, base.modules, (name) => (names.includes(name) ? name : ownName(base, name)));
  const unread = [...targets.keys(), ...replaced.keys()].filter((name) => !names.includes(name));
  for (const name of unread) report.problems.push(`${name}: the adapter changes it, and the merged model has no such weight`);
  for (const [i, name] of names.entries()) {
    onProgress?.({ tensor: name, done: i, total: names.length });
    const written = entryOf(merged.checkpoint, name);
    // The output layer of a model with tied weights that is untied: its own begins as the embedding.
    const own = entryOf(base.checkpoint, ownName(base, name));
    const whole = replaced.get(name);
    report.compared++;
    const problem = (text: string) => report.problems.push(`${name}: ${text}`);
    const shape = whole && !whole.rows ? whole.shape : own?.shape;
    if (!written || !shape) problem(written ? "the base has no such weight" : "the merged checkpoint lacks it");
    else if (written.shape.join() !== shape.join())
      problem(`expected [${shape.join(", ")}], found [${written.shape.join(", ")}]`);
    else {
      const target = targets.get(name);
      const read = replacedRead(files, own, whole);
      if (target) report.merged.push(await checkMerged(files, { name, own: own!, read, written, target, whole }, problem));
      else await checkKept(files, read, written, problem);
    }
  }
  return report;
}

type ReadRows = (row: number, count: number) => Promise<Float32Array>;

/** Reads the rows of the base's weight, with those of `whole` in their place. */
const replacedRead = (files: Files, own: CheckpointTensor | undefined, whole: SavedTensor | undefined): ReadRows => {
  const { data, rows } = whole ?? {};
  const width = (data?.length ?? 0) / (whole?.shape[0] ?? 1);
  if (data && !rows) return async (row, count) => data.subarray(row * width, (row + count) * width);
  return async (first, count) => {
    const block = await readRows(files, own!, first, count);
    for (const [i, row] of (rows ?? []).entries()) {
      if (row >= first && row < first + count) block.set(data!.subarray(i * width, (i + 1) * width), (row - first) * width);
    }
    return block;
  };
};

const floatOf = ({ dtype }: CheckpointTensor): FloatDType => (isFloat(dtype) ? dtype : "bfloat16");
const rounded = (values: Float32Array, dtype: FloatDType): Float32Array =>
  toFloat32({ dtype, shape: [values.length], data: fromFloat32(values, dtype) });

/** A weight that merging leaves as it is, but for its dtype. */
async function checkKept(
  files: Files,
  read: ReadRows,
  written: CheckpointTensor,
  problem: (text: string) => void,
): Promise<void> {
  const rows = written.shape[0] ?? 1;
  const width = written.shape.slice(1).reduce((product, dim) => product * dim, 1);
  const step = Math.max(1, Math.floor(BLOCK_ELEMENTS / Math.max(1, width)));
  for (let row = 0; row < rows; row += step) {
    const count = Math.min(step, rows - row);
    const expected = rounded(await read(row, count), floatOf(written));
    const found = await readRows(files, written, row, count);
    const at = found.findIndex((value, i) => value !== expected[i] && !(Number.isNaN(value) && Number.isNaN(expected[i])));
    if (at < 0) continue;
    return problem(`the adapter does not change it, and it differs: expected ${expected[at]}, found ${found[at]}`);
  }
}

interface Merged {
  name: string;
  own: CheckpointTensor;
  /** What the update is added to. */
  read: ReadRows;
  written: CheckpointTensor;
  target: MergeTarget;
  whole?: SavedTensor;
}

/** A weight that the adapter changes. */
async function checkMerged(
  files: Files,
  { name, own, read, written, target, whole }: Merged,
  problem: (text: string) => void,
): Promise<MergedWeight> {
  const dtype = floatOf(written);
  const width = written.shape.slice(1).reduce((product, dim) => product * dim, 1);
  const { ofValue, ofUpdate } = ROUNDING[dtype];
  let [update, along, alongRounded, error, count, row] = [0, 0, 0, 0, 0, 0];
  let worst: { expected: number; found: number } | undefined;
  for await (const exact of mergedRows(files, own, target, whole)) {
    const height = exact.length / width;
    const before = await read(row, height);
    const found = await readRows(files, written, row, height);
    const possible = rounded(exact, dtype);
    let largest = 0;
    for (let i = 0; i < exact.length; i++) largest = Math.max(largest, Math.abs(exact[i]! - before[i]!));
    for (let i = 0; i < exact.length; i++) {
      const [value, is] = [exact[i]!, found[i]!];
      const delta = value - before[i]!;
      const off = is - value;
      update += delta * delta;
      along += (is - before[i]!) * delta;
      alongRounded += (possible[i]! - before[i]!) * delta;
      error += off * off;
      if (Math.abs(off) > ofValue * Math.abs(value) + ofUpdate * largest + LEAST_STEP || Number.isNaN(off))
        worst ??= { expected: value, found: is };
    }
    count += exact.length;
    row += height;
  }
  const share = (sum: number): number => (update === 0 ? 1 : sum / update);
  const found = { name, dtype, arrived: share(along), possible: share(alongRounded), error: Math.sqrt(share(error)) };
  const noise = Math.sqrt(error / Math.max(1, count) / Math.max(update, Number.MIN_VALUE));
  const off = Math.abs(found.arrived - found.possible);
  if (update === 0) found.error = 0;
  if (worst) problem(`a merged value is further off than rounding: expected ${worst.expected}, found ${worst.found}`);
  else if (update > 0 && !(off <= Math.max(LEAST_SHARE, ERRORS * noise))) {
    problem(`${percentOf(found.arrived)} of the update is there, and ${percentOf(found.possible)} should be`);
  }
  return found;
}

const percentOf = (share: number): string => `${(100 * share).toFixed(1)}%`;
