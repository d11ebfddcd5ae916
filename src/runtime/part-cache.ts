// A cache on disk of weights that were converted: a folder for each set of weights, forms and files that they come from, made once.
import { LowrankError } from "../errors.ts";
import type { Files, Lock, LockFolder } from "../files.ts";
import { type MakeDigest, readSums, sumFile, summing } from "../formats/checksums.ts";
import { quote, readJsonObject } from "../formats/json.ts";
import { readHeader, safetensorsBytes, writeSafetensors } from "../formats/safetensors.ts";
import type { ElementType, Type } from "../graph/graph.ts";
import type { FormName } from "../graph/ops/stored.ts";
import { inFolder } from "../onnx/emitter.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import type { Machine, Place } from "./machine.ts";
import type { WeightSource } from "./session.ts";

/** A weight in a form; null for float32. */
export interface FormedWeight {
  of: string;
  form: FormName | null;
}

export const keyOf = ({ of, form }: FormedWeight): string => `${form ?? "float32"} ${of}`;

/** A tensor of numbers in a file. */
export interface PartPlace {
  file: string;
  offset: number;
  length: number;
  dtype: ElementType;
  shape: readonly number[];
}

/** Gives memory for a tensor. */
export type Take = (dtype: ElementType, shape: readonly number[]) => Place;

/** What keeps converted weights. */
export interface PartCache {
  /** The folder of the cache; null if it is switched off. */
  folder: string | null;
  files: Files;
  digest: MakeDigest;
  freeDisk(folder: string): Promise<number>;
  lock: LockFolder;
  /** Sets of fewer bytes are converted at every start. */
  leastBytes: number;
}

/** Sets of weights of fewer bytes are converted at every start, which takes less than a second. */
export const CACHE_LEAST_BYTES = 64e6;
/** Raised when a form stores other numbers, or an entry has other files. */
const VERSION = 1;
/** Of the disk, left free by the cache. */
const DISK_MARGIN_BYTES = 1e9;
/** Between two looks at an entry that another process makes. */
const WAIT_MS = 200;

const WEIGHTS = "weights.safetensors";
const ENTRY = "entry.json";
/** The names of entries in the cache's folder, and of those that are being made. */
const NAME = /^[0-9a-f]{40}(\.part)?$/;
/** Ends the name of an entry that is being made, and that of its lock. */
const UNFINISHED = ".part";
const LOCK = ".lock";

/** What is known of an entry beside its weights. */
interface Entry {
  key: string;
  /** The folder that the weights come from. */
  base: string;
  /** Weights by form. */
  forms: Record<string, number>;
  bytes: number;
  /** ISO 8601. */
  made: string;
  /** The stamp of the file of weights. */
  stamp: string;
  /** The files that they come from, as they were. */
  sources: { file: string; stamp: string }[];
}

/** A part of a weight and what is stored of it. */
interface Part {
  name: string;
  weight: FormedWeight;
  index: number;
  dtype: ElementType;
  shape: readonly number[];
}

interface Work {
  cache?: PartCache;
  machine: Machine;
  source: WeightSource;
  /** Fail where nothing can be kept. */
  mustBeKept: boolean;
  /** Called after each weight, with bytes. */
  onConverted?: (progress: { done: number; total: number }) => void;
}

/** Converts a weight into memory that it takes for each part. */
type Convert = (weight: FormedWeight, take: Take) => Promise<unknown>;

/**
 * Where the parts of the weights lie on disk, by `keyOf`: in the cache's entry for them, which is made if it is not there or is not what
 * was written. Weights are converted one at a time. The map is empty where the cache is off, the set is small or cannot be kept.
 */
export async function cachedParts(
  { cache, machine, source, mustBeKept, onConverted }: Work,
  weights: readonly FormedWeight[],
  typesOf: (weight: FormedWeight) => readonly Type[],
  convert: Convert,
): Promise<Map<string, PartPlace[]>> {
  const parts = weights.flatMap((weight) => typesOf(weight).map((type, index) => partOf(weight, type, index)));
  const bytes = safetensorsBytes(parts);
  if (parts.length === 0 || (!mustBeKept && !(cache && bytes >= cache.leastBytes))) return new Map();
  if (!cache?.folder) {
    if (mustBeKept) throw refused("cache/off", "weights in this form are streamed from the cache, which is switched off", source);
    return new Map();
  }
  const root = cache.folder;
  try {
    await cache.files.makeFolder(root);
    const sources = await sourcesOf(cache.files, source, weights);
    const key = nameOf(cache.digest, source, weights, sources);
    const place = `${root}/${key}`;
    const found = (await placesIn(cache, place, key, parts)) ?? (await make());
    return found;

    async function make(): Promise<Map<string, PartPlace[]> | never> {
      const waits = () => onConverted?.({ done: 0, total: bytes }); // by which waiting can be stopped
      const held = await lockOrWait(cache!, root, key, () => placesIn(cache!, place, key, parts), waits);
      if (held instanceof Map) return held;
      try {
        await removeUnused(cache!, root, key);
        await cache!.files.remove(place); // it is not what was written
        const free = await cache!.freeDisk(root);
        if (free < bytes + DISK_MARGIN_BYTES) throw noSpace(root, bytes, free);
        const entry = { key, base: source.folder, forms: countForms(weights), bytes, made: new Date().toISOString(), sources };
        await write(cache!, machine, place, entry, parts, convert, onConverted);
        return (await placesIn(cache!, place, key, parts))!;
      } finally {
        await held.release();
      }
    }
  } catch (error) {
    if (mustBeKept || !(error instanceof LowrankError) || !/^(cache|file)\//.test(error.code)) throw error;
    return new Map(); // a run that needs no cache goes without
  }
}

const partOf = (weight: FormedWeight, { dtype, shape }: Type, index: number): Part => ({
  ...{ name: `${keyOf(weight)}.${index}`, weight, index },
  ...{ dtype, shape: shape.map(Number) },
});

function countForms(weights: readonly FormedWeight[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { form } of weights) counts[form ?? "float32"] = (counts[form ?? "float32"] ?? 0) + 1;
  return counts;
}

/** The files that weights come from, as they are. */
async function sourcesOf(files: Files, source: WeightSource, weights: readonly FormedWeight[]): Promise<Entry["sources"]> {
  const names = new Set(weights.map(({ of }) => inFolder(source.folder, source.locate(of)).file));
  return Promise.all([...names].sort().map(async (file) => ({ file, stamp: await files.stamp(file) })));
}

/** The name of an entry: it changes with the files that the weights come from, with the weights, and with their forms. */
function nameOf(digest: MakeDigest, source: WeightSource, weights: readonly FormedWeight[], sources: Entry["sources"]): string {
  const numbers = new Map(sources.map(({ file }, i) => [file, i]));
  const described = weights.map(({ of, form }) => {
    const { dtype, shape, offset, length, layout, file } = inFolder(source.folder, source.locate(of));
    return { of, form, dtype, shape, offset, length, layout, file: numbers.get(file) };
  });
  const hash = digest();
  hash.add(new TextEncoder().encode(JSON.stringify([VERSION, sources.map(({ stamp }) => stamp), described])));
  return hash.end().slice(0, 40);
}

/** Where the parts lie in the entry; null if there is none, or one that is not what was written for this key. */
async function placesIn(
  { files, digest }: PartCache,
  place: string,
  key: string,
  parts: readonly Part[],
): Promise<Map<string, PartPlace[]> | null> {
  const file = `${place}/${WEIGHTS}`;
  try {
    const entry = await readEntry(files, place);
    if (entry?.key !== key) return null;
    const stamp = await files.stamp(file);
    if (stamp !== entry.stamp) {
      if (!(await isAsSummed(files, digest, place))) return null;
      await writeEntry(files, place, { ...entry, stamp }).catch(() => undefined); // else it is compared again the next time
    }
    const { tensors, metadata } = await readHeader(files, file);
    if (metadata["key"] !== key || tensors.size !== parts.length) return null;
    const found = new Map<string, PartPlace[]>();
    for (const { name, weight, dtype, shape } of parts) {
      const tensor = tensors.get(name);
      if (!tensor || tensor.dtype !== dtype || String(tensor.shape) !== String(shape)) return null;
      const { offset, length } = tensor;
      const places = found.get(keyOf(weight)) ?? [];
      found.set(keyOf(weight), places);
      places.push({ file, offset, length, dtype, shape });
    }
    return found;
  } catch (error) {
    if (error instanceof LowrankError) return null;
    throw error;
  }
}

/** Whether the weights are those that SHA256SUMS was written for: times and places change when a cache is copied. */
async function isAsSummed(files: Files, digest: MakeDigest, place: string): Promise<boolean> {
  return (await readSums(files, place))?.get(WEIGHTS) === (await sumFile(files, `${place}/${WEIGHTS}`, digest));
}

const writeEntry = (files: Files, place: string, entry: Entry): Promise<void> =>
  files.write(`${place}/${ENTRY}`, new TextEncoder().encode(`${JSON.stringify(entry, null, 1)}\n`));

/** What entry.json says; null if it says nothing that can be used. */
async function readEntry(files: Files, place: string): Promise<Entry | null> {
  try {
    const { key, base, forms, bytes, made, stamp, sources } = (await readJsonObject(
      files,
      `${place}/${ENTRY}`,
    )) as Partial<Entry>;
    const texts = [key, base, made, stamp].every((text) => typeof text === "string");
    if (!texts || typeof bytes !== "number" || !Array.isArray(sources) || typeof forms !== "object") return null;
    const isSource = (one: Partial<Entry["sources"][0]> | null) => typeof one?.file === "string" && typeof one.stamp === "string";
    return sources.every(isSource) ? ({ key, base, forms, bytes, made, stamp, sources } as Entry) : null;
  } catch (error) {
    if (error instanceof LowrankError) return null;
    throw error;
  }
}

/** The lock on an entry, or what `look` finds once another process has made it; `waits` is called before each look. */
async function lockOrWait<T>(
  { lock }: PartCache,
  root: string,
  key: string,
  look: () => Promise<T | null>,
  waits: () => void,
): Promise<Lock | T> {
  for (;;) {
    try {
      const held = await lock(root, `${key}${LOCK}`);
      const found = await look();
      if (found === null) return held;
      await held.release();
      return found;
    } catch (error) {
      if (!(error instanceof LowrankError) || error.code !== "file/locked") throw error;
    }
    waits();
    await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    const found = await look();
    if (found !== null) return found;
  }
}

/** Writes an entry, which appears whole. */
async function write(
  { files, digest }: PartCache,
  machine: Machine,
  place: string,
  entry: Omit<Entry, "stamp">,
  parts: readonly Part[],
  convert: Convert,
  onConverted?: Work["onConverted"],
): Promise<void> {
  const unfinished = `${place}${UNFINISHED}`;
  await files.remove(unfinished);
  await files.makeFolder(unfinished);
  const summed = summing(files, digest);
  const converted = oneAtATime(machine, convert);
  let done = 0;
  const tensors = parts.map(({ name, dtype, shape, weight, index }) => ({
    ...{ name, dtype, shape },
    data: async () => {
      const bytes = (await converted.get(weight, parts))[index]!;
      done += bytes.length;
      onConverted?.({ done, total: entry.bytes });
      return bytes;
    },
  }));
  try {
    await writeSafetensors(summed.files, `${unfinished}/${WEIGHTS}`, tensors, { key: entry.key }, true);
  } catch (error) {
    await files.remove(unfinished);
    throw error;
  } finally {
    converted.free();
  }
  await summed.writeSums(unfinished);
  const stamp = await files.stamp(`${unfinished}/${WEIGHTS}`);
  await writeEntry(files, unfinished, { ...entry, stamp });
  await files.rename(unfinished, place);
}

/** The bytes of a weight's parts, in memory that is the next one's when that is asked for. */
function oneAtATime(machine: Machine, convert: Convert) {
  let key: string | undefined;
  let bytes: Uint8Array[] = [];
  let free = () => {};
  return {
    async get(weight: FormedWeight, parts: readonly Part[]): Promise<Uint8Array[]> {
      if (key === keyOf(weight)) return bytes;
      free();
      key = keyOf(weight);
      const own = parts.filter((part) => part.weight === weight);
      const lengths = own.map(({ dtype, shape }) => sizeOf(shape) * bytesPerElement[dtype]);
      const memory = machine.allocate(lengths.reduce((sum, length) => sum + length, 0));
      const ends = lengths.map((_, i) => lengths.slice(0, i + 1).reduce((sum, length) => sum + length, 0));
      bytes = ends.map((end, i) => memory.bytes.subarray(end - lengths[i]!, end));
      const taken: Place[] = [];
      free = () => {
        for (const { handle } of taken) machine.free(handle);
        memory.free();
        free = () => {};
      };
      await convert(weight, (dtype, shape) => {
        const own = bytes[taken.length]!;
        taken.push({ bytes: own, handle: machine.tensor(dtype, shape, own) });
        return taken.at(-1)!;
      });
      return bytes;
    },
    free: () => free(),
  };
}

/** Removes what killed processes left, and entries that nothing can use any more: their base has changed or is gone. */
async function removeUnused({ files, lock }: PartCache, root: string, own: string): Promise<void> {
  for (const name of await files.list(root)) {
    const key = name.split(".")[0]!;
    if (key === own || !NAME.test(name)) continue;
    const isUsed = name.endsWith(UNFINISHED) ? false : await isCurrent(files, await readEntry(files, `${root}/${name}`));
    if (isUsed) continue;
    const held = await lock(root, `${key}${LOCK}`).catch(() => null);
    if (held === null) continue; // it is being made
    await files.remove(`${root}/${name}`);
    await held.release();
  }
}

const isCurrent = async (files: Files, entry: Entry | null): Promise<boolean> => {
  const stamps = (entry?.sources ?? []).map(async ({ file, stamp }) => (await files.stamp(file).catch(() => null)) === stamp);
  return entry !== null && (await Promise.all(stamps)).every(Boolean);
};

/** An entry of the cache as a list shows it. */
export interface CacheEntry extends Pick<Entry, "base" | "forms" | "bytes" | "made"> {
  folder: string;
  /** Whether its base is as it was: others are never used again. */
  isCurrent: boolean;
}

/** What the cache has, the newest first. Folders of others are passed over. */
export async function cacheEntries({ folder, files }: Pick<PartCache, "folder" | "files">): Promise<CacheEntry[]> {
  if (folder === null || !(await files.exists(folder))) return [];
  const found: CacheEntry[] = [];
  for (const name of await files.list(folder)) {
    const entry = await readEntry(files, `${folder}/${name}`);
    if (entry?.key !== name) continue;
    const { base, forms, bytes, made } = entry;
    found.push({ folder: `${folder}/${name}`, base, forms, bytes, made, isCurrent: await isCurrent(files, entry) });
  }
  return found.sort((a, b) => (a.made < b.made ? 1 : -1));
}

/** Removes entries of the cache, and what was left unfinished; other files in its folder stay. */
export async function clearCache({ folder, files, lock }: Pick<PartCache, "folder" | "files" | "lock">, entries: CacheEntry[]) {
  for (const entry of entries) await files.remove(entry.folder);
  if (folder === null || !(await files.exists(folder))) return;
  for (const name of await files.list(folder)) {
    if (!NAME.test(name) || !name.endsWith(UNFINISHED)) continue;
    const held = await lock(folder, name.replace(UNFINISHED, LOCK)).catch(() => null);
    if (held === null) continue;
    await files.remove(`${folder}/${name}`);
    await held.release();
  }
}

const refused = (code: string, message: string, { folder }: WeightSource): LowrankError =>
  new LowrankError(code, message, {
    subject: quote(folder),
    expected: "a folder for it: LOWRANK_CACHE unset, or the path of one",
    got: "no folder",
    next: "Unset LOWRANK_CACHE, stream the base as it is stored (without --base-dtype), or keep it in memory (--memory recompute).",
  });

const noSpace = (folder: string, needed: number, free: number): LowrankError =>
  new LowrankError("cache/disk", "the converted weights do not fit on the cache's disk", {
    subject: folder,
    expected: `${((needed + DISK_MARGIN_BYTES) / 1e9).toFixed(2)} GB`,
    got: `${(free / 1e9).toFixed(2)} GB free`,
    next: "Free some space (lowrank cache lists what is cached), or set LOWRANK_CACHE to a folder on another disk.",
    exitCode: 1,
  });
