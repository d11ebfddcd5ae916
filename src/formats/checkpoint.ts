// A checkpoint folder as the Hugging Face hub has it: config.json, and model.safetensors or an index of shards. Nothing is loaded.
import { LowrankError, nearest } from "../errors.ts";
import type { Files } from "../files.ts";
import { float32, type Tensor } from "../tensor.ts";
import { isGguf, openGguf } from "./gguf/checkpoint.ts";
import { readGguf } from "./gguf/reader.ts";
import { type Json, parseStrictJson, quote, readJsonObject, readText } from "./json.ts";
import { MAX_TENSORS, readHeader, readTensor } from "./safetensors.ts";
import { type CheckpointTensor, isPlain, readRows } from "./stored.ts";

export type { CheckpointTensor } from "./stored.ts";

export const WEIGHTS_NAME = "model.safetensors";
export const INDEX_NAME = "model.safetensors.index.json";
/** Shards of one checkpoint; the largest models on the hub have some hundreds. */
export const MAX_SHARDS = 10_000;
/** Tensors of a sharded checkpoint. */
const MAX_INDEX_VALUES = 8 * MAX_TENSORS;

/** A file of weights: its name in the folder, its real path, and what `Files.stamp` said before its header was read. */
export interface Shard {
  name: string;
  file: string;
  stamp: string;
}

export interface Checkpoint {
  /** Or a GGUF file, which `withGguf` shows as a folder. */
  folder: string;
  shards: Shard[];
  /** config.json as it is written. */
  config: Record<string, unknown>;
  /** By stored name; shard by shard, in the order of the payload. */
  tensors: Map<string, CheckpointTensor>;
  /** `__metadata__` of the first weight file. */
  metadata: Record<string, string>;
  /** Stored names of weights that the model calls otherwise. */
  aliases?: ReadonlyMap<string, string>;
  /** Weights, by the model's name, that are stored inside a larger tensor. */
  parts?: ReadonlyMap<string, CheckpointTensor>;
}

/** Under which name the checkpoint stores what the model calls `name`. */
export const storedName = ({ aliases }: Checkpoint, name: string): string => aliases?.get(name) ?? name;

/** Where what the model calls `name` lies; undefined if the checkpoint lacks it. */
export const entryOf = (checkpoint: Checkpoint, name: string): CheckpointTensor | undefined =>
  checkpoint.tensors.get(storedName(checkpoint, name)) ?? checkpoint.parts?.get(name);

/**
 * Opens a checkpoint folder, or a GGUF file: config.json and the headers of its weight files are read and checked, no weight is.
 * Codes of errors: `checkpoint/*` the folder, `index/*` the index of shards, `safetensors/*` and `gguf/*` a weight file.
 */
export async function openCheckpoint(files: Files, folder: string): Promise<Checkpoint> {
  if (await isGgufFile(files, folder)) return ggufCheckpoint(files, folder);
  const config = await readConfig(files, folder);
  const names = new Set(await files.list(folder));
  if (names.has(WEIGHTS_NAME)) return { folder, config, ...(await openShards(files, folder, [WEIGHTS_NAME], new Map())) };
  if (!names.has(INDEX_NAME)) refuseWithoutWeights(folder, names);
  const weightMap = await readIndex(files, `${folder}/${INDEX_NAME}`);
  const shards = [...new Set(weightMap.values())].sort();
  const missing = shards.find((shard) => !names.has(shard));
  if (missing !== undefined) {
    const expected = `the ${shards.length} shards that ${INDEX_NAME} names`;
    const facts = { subject: folder, expected, next: "Download the checkpoint again." };
    throw new LowrankError("checkpoint/missing-shard", `${quote(missing)} is missing`, facts);
  }
  return { folder, config, ...(await openShards(files, folder, shards, weightMap)) };
}

const isGgufFile = async (files: Files, path: string): Promise<boolean> => isGguf(path) && !(await files.isFolder(path));

async function ggufCheckpoint(files: Files, path: string): Promise<Checkpoint> {
  const file = await files.realPath(path);
  const shard = { name: path.slice(path.lastIndexOf("/") + 1), file, stamp: await files.stamp(file) };
  const { config, tensors } = await openGguf(files, path);
  return { folder: path, shards: [shard], config, tensors, metadata: {} };
}

/** The tensors of a file of weights, by the file's own names, in the order of the payload. */
export async function tensorsIn(files: Files, file: string): Promise<Map<string, Omit<CheckpointTensor, "file">>> {
  return (isGguf(file) ? await readGguf(files, file) : await readHeader(files, file)).tensors;
}

/** Whether a model's place has weights that can be read: no header is. */
export async function hasWeights(files: Files, folder: string): Promise<boolean> {
  if (await isGgufFile(files, folder)) return true;
  return (await files.exists(`${folder}/${WEIGHTS_NAME}`)) || files.exists(`${folder}/${INDEX_NAME}`);
}

/** Where a model's checkpoint is: `folder`, or the one GGUF file in it where it has no other. Fails with `gguf/several`. */
export async function checkpointPlace(files: Files, folder: string): Promise<string> {
  if (!(await files.exists(folder)) || !(await files.isFolder(folder))) return folder;
  const names = await files.list(folder);
  const found = names.filter(isGguf).sort();
  if (found.length === 0 || names.some((name) => /\.safetensors(\.index\.json)?$/.test(name))) return folder;
  if (found.length === 1) return `${folder}/${found[0]}`;
  throw new LowrankError("gguf/several", "the folder holds several GGUF files", {
    subject: folder,
    expected: "one, or the path of the file to use",
    got: found.slice(0, 12).map(quote).join(", "),
    next: `Give the file: ${folder}/${found[0]}`,
  });
}

/** config.json of a checkpoint folder. */
export async function readConfig(files: Files, folder: string): Promise<Record<string, unknown>> {
  const names = new Set(await files.list(folder));
  if (names.has("config.json")) return readJsonObject(files, `${folder}/config.json`);
  throw new LowrankError("checkpoint/no-config", "no config.json in the folder", {
    subject: folder,
    expected: `config.json and ${WEIGHTS_NAME}`,
    got: listed(names),
    next: names.has("adapter_config.json") ? "This is an adapter; give the folder of its base model." : "Check the path.",
  });
}

/** Reads one tensor of a checkpoint by its stored name, or what the model calls it; what is stored in blocks, as float32. */
export async function readWeights(files: Files, checkpoint: Checkpoint, name: string): Promise<Tensor> {
  const entry = findTensor(checkpoint, name);
  return isPlain(entry) ? readTensor(files, entry.file, entry) : float32(entry.shape, await readRows(files, entry));
}

/** The entry of a stored name, or of what the model calls a weight; an unknown name is refused with the names most like it. */
export function findTensor(checkpoint: Checkpoint, name: string): CheckpointTensor {
  const entry = entryOf(checkpoint, name);
  if (entry) return entry;
  throw new LowrankError("checkpoint/no-tensor", `the checkpoint has no tensor ${quote(name)}`, {
    subject: checkpoint.folder,
    next: `Check the name. Names most like it: ${nearest(name, checkpoint.tensors.keys()).join(", ") || "none"}.`,
  });
}

const listed = (names: Set<string>): string => [...names].slice(0, 12).map(quote).join(", ") || "an empty folder";

const OTHER_WEIGHTS: { code: string; pattern: RegExp; what: string; next: string }[] = [
  {
    code: "checkpoint/pytorch-weights",
    pattern: /^(pytorch_model.*|consolidated.*|model.*)\.(bin|pth?|bin\.index\.json)$/,
    what: "PyTorch's pickle format",
    next: "Convert it once with Transformers in Python: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER).",
  },
  {
    code: "checkpoint/gguf-weights",
    pattern: /\.gguf$/i,
    what: "GGUF",
    next: "Give the file itself in the place of the folder, or download the model's original safetensors checkpoint.",
  },
  {
    code: "checkpoint/other-framework",
    pattern: /^(tf_model\.h5|flax_model\.msgpack)$/,
    what: "TensorFlow's or Flax's format",
    next: "Download the model's safetensors files, or convert it once with Transformers in Python.",
  },
  {
    code: "checkpoint/adapter",
    pattern: /^adapter_model\.safetensors$/,
    what: "an adapter",
    next: "Give the folder of the adapter's base model.",
  },
];

/** Says which other weights a model has in place of safetensors. `names` are its files, `folder` is its name or folder. */
export function refuseWithoutWeights(folder: string, names: Set<string>): never {
  const facts = { subject: folder, expected: `${WEIGHTS_NAME} or ${INDEX_NAME}` };
  for (const { code, pattern, what, next } of OTHER_WEIGHTS) {
    const found = [...names].find((name) => pattern.test(name));
    if (found === undefined) continue;
    throw new LowrankError(code, `the only weights in the folder are ${what}: ${quote(found)}`, { ...facts, next });
  }
  const next = "Download the checkpoint's safetensors files.";
  throw new LowrankError("checkpoint/no-weights", "no weights in the folder", { ...facts, got: listed(names), next });
}

/** The index's weight_map: stored name → shard, each shard a plain file name. */
async function readIndex(files: Files, path: string): Promise<Map<string, string>> {
  const refuse = (reason: string, message: string, got?: string): never => {
    throw new LowrankError(`index/${reason}`, message, {
      subject: path,
      expected: 'an object with "weight_map": { tensor name: shard file name }',
      got,
      next: "The index is damaged; download it again.",
    });
  };
  const root = parseStrictJson(await readText(files, path), { code: "index", subject: path, maxValues: MAX_INDEX_VALUES });
  const entries = root instanceof Map ? root.get("weight_map") : refuse("not-object", "the index is not an object");
  if (!(entries instanceof Map)) return refuse("no-weight-map", "the index has no weight_map object");
  if (entries.size === 0) refuse("empty", "the weight_map is empty");
  const weightMap = new Map<string, string>();
  for (const [name, shard] of entries as Map<string, Json>) {
    if (typeof shard !== "string") return refuse("shard-name", `the shard of tensor ${quote(name)} is not a string`);
    if (shard.includes("/") || shard.includes("\\") || shard.includes(":") || shard === "..") {
      refuse("shard-outside", `the shard of tensor ${quote(name)} is a path, not a file name in the folder`, quote(shard));
    }
    if (!shard.endsWith(".safetensors") || shard.includes("\0")) {
      refuse("shard-name", `the shard of tensor ${quote(name)} is no safetensors file`, quote(shard));
    }
    weightMap.set(name, shard);
  }
  const shards = new Set(weightMap.values()).size;
  if (shards > MAX_SHARDS) refuse("too-many-shards", `more than ${MAX_SHARDS} shards`, `${shards}`);
  return weightMap;
}

/**
 * The tensors of all shards. A tensor that the index does not list is loaded too, as by Transformers; where two
 * shards hold the same name, the index decides.
 */
async function openShards(files: Files, folder: string, names: string[], weightMap: Map<string, string>) {
  let metadata: Record<string, string> | undefined;
  const tensors = new Map<string, CheckpointTensor>();
  const homes = new Map<string, string>();
  const shards: Shard[] = [];
  for (const shard of names) {
    const file = await files.realPath(`${folder}/${shard}`);
    shards.push({ name: shard, file, stamp: await files.stamp(file) });
    const header = await readHeader(files, file);
    metadata ??= header.metadata;
    for (const [name, entry] of header.tensors) {
      if ((weightMap.get(name) ?? shard) !== shard) continue;
      const other = homes.get(name);
      if (other !== undefined) {
        throw new LowrankError("index/ambiguous-tensor", `two shards hold tensor ${quote(name)}, and the index lists neither`, {
          subject: `${folder}/${INDEX_NAME}`,
          got: `${quote(other)} and ${quote(shard)}`,
          next: "Download the checkpoint again.",
        });
      }
      homes.set(name, shard);
      tensors.set(name, { ...entry, file });
    }
  }
  for (const [name, shard] of weightMap) {
    if (tensors.has(name)) continue;
    throw new LowrankError("index/tensor-missing", `tensor ${quote(name)} is not in the shard that the index names`, {
      subject: `${folder}/${shard}`,
      next: "Index and shards do not belong together; download the checkpoint again.",
    });
  }
  return { shards, tensors, metadata: metadata! };
}
