// Whether a folder's files are as they were written: by checksums, by the hub's names of blobs, and where there are neither by structure.
import { ADAPTER_CONFIG_NAME } from "../../adapters/peft-files.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { INDEX_NAME, openCheckpoint } from "../../formats/checkpoint.ts";
import { type Digest, hashed, type MakeDigest, readSums, SUMS_NAME } from "../../formats/checksums.ts";
import { bytesOf } from "../../formats/dtypes.ts";
import { allFinite, isFloat } from "../../formats/float.ts";
import { isGguf, isGgufAdapter } from "../../formats/gguf/checkpoint.ts";
import { readGguf } from "../../formats/gguf/reader.ts";
import { readJsonObject } from "../../formats/json.ts";
import { readHeader, type TensorEntry } from "../../formats/safetensors.ts";
import { BLOCK_BYTES, readInBlocks } from "../../formats/side-files.ts";
import { type CheckpointTensor, readRows } from "../../formats/stored.ts";
import { once, openBase } from "../../models/base.ts";
import { REPORT_NAME } from "../../report/report.ts";
import { readBy } from "../../train/base-watch.ts";
import { listedFiles, STATE_FILE } from "../../train/checkpoint.ts";
import { RUN_NAME } from "../../train/run-file.ts";
import { METRICS_NAME } from "../../train/run-log.ts";

/** How deep below a folder its files are looked for, and how many there can be. */
const MAX_DEPTH = 6;
const MAX_FILES = 100_000;

export type FolderKind =
  | "adapter"
  | "checkpoint"
  | "run"
  | "model"
  | "hub model"
  | "hub cache"
  | "folder"
  | "GGUF file"
  | "safetensors file";

/** `unlisted`: nothing says what the file should be. */
export type FileState = "ok" | "damaged" | "missing" | "unlisted";

export type VerifyEvent =
  /** Bytes that are read, of all that are. */
  | { type: "verifying"; file: string; done: number; bytes: number }
  /** `file` is a path below the folder. `by` is what it was compared with, `reason` what is wrong, or why nothing is known. */
  | { type: "file"; file: string; state: FileState; by: "checksum" | "blob" | "structure" | null; reason?: string }
  | ({ type: "done"; folder: string; kind: FolderKind; bytes: number } & Record<FileState, number>);

/** A file to look at. `check` yields the numbers of the bytes that it has read, and what is wrong, if anything is. */
interface Item {
  file: string;
  by: Extract<VerifyEvent, { type: "file" }>["by"];
  state?: FileState;
  reason?: string;
  /** Bytes that `check` reads. */
  size: number;
  check?: () => AsyncGenerator<number | string>;
}

interface Host {
  files: Files;
  digest: MakeDigest;
}

/** Checks every file of an adapter, a checkpoint, a run, a model or the hub's cache. Throws `verify/nothing` if it is none of these. */
export async function* verifyFolder(folder: string, host: Host): AsyncGenerator<VerifyEvent, void, void> {
  const kind = await kindOf(host.files, folder);
  const items = await sections[kind](host, folder, "");
  const bytes = items.reduce((sum, { size }) => sum + size, 0);
  const counts = { ok: 0, damaged: 0, missing: 0, unlisted: 0 };
  let done = 0;
  for (const { file, by, size, check, ...known } of items) {
    let { state = "ok", reason } = known;
    const end = done + size;
    try {
      for await (const part of check?.() ?? []) {
        if (typeof part === "string") [state, reason] = ["damaged", part];
        else {
          done += part;
          yield { type: "verifying", file, done, bytes };
        }
      }
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      [state, reason] = ["damaged", [error.message, error.got].filter(Boolean).join(": ")];
    }
    done = end;
    counts[state]++;
    yield { type: "file", file, state, by, ...(reason !== undefined && { reason }) };
  }
  yield { type: "done", folder, kind, bytes, ...counts };
}

const CHECKPOINT = /^checkpoint-\d+$/;
const CACHED = /^(models|datasets|spaces)--/;
/** What a run keeps beside its result. */
const RUN_FILES = [RUN_NAME, METRICS_NAME, REPORT_NAME];

async function kindOf(files: Files, folder: string): Promise<FolderKind> {
  if (isGguf(folder) && !(await files.isFolder(folder))) return "GGUF file";
  if (/\.safetensors$/i.test(folder) && !(await files.isFolder(folder))) return "safetensors file";
  const names = await files.list(folder);
  const has = (name: string) => names.includes(name);
  if (has("blobs") && has("snapshots")) return "hub model";
  if (names.some((name) => CACHED.test(name))) return "hub cache";
  if (has(RUN_NAME) || names.some((name) => CHECKPOINT.test(name))) return "run";
  if (has(STATE_FILE)) return "checkpoint";
  if (has(ADAPTER_CONFIG_NAME)) return "adapter";
  if (has("config.json")) return "model";
  if (has(SUMS_NAME) || names.some((name) => name.endsWith(".safetensors") || isGguf(name))) return "folder";
  throw new LowrankError("verify/nothing", "the folder holds nothing that can be verified", {
    subject: folder,
    expected: `${SUMS_NAME}, *.safetensors, the output folder of a run, or the hub's cache`,
    got: names.slice(0, 12).join(", ") || "an empty folder",
    next: "Check the path.",
  });
}

/** What there is to check in a folder of each kind. */
const sections: Record<FolderKind, (host: Host, folder: string, prefix: string) => Promise<Item[]>> = {
  adapter: plainItems,
  checkpoint: plainItems,
  model: plainItems,
  folder: plainItems,
  "GGUF file": oneFile,
  "safetensors file": oneFile,
  async run(host, folder, prefix) {
    const checkpoints = (await host.files.list(folder)).filter((name) => CHECKPOINT.test(name));
    const inside = checkpoints.map((name) => plainItems(host, `${folder}/${name}`, `${prefix}${name}/`));
    return [await plainItems(host, folder, prefix), ...(await Promise.all(inside))].flat();
  },
  async "hub cache"(host, folder, prefix) {
    const models = (await host.files.list(folder)).filter((name) => CACHED.test(name));
    const inside = models.map((name) => sections["hub model"](host, `${folder}/${name}`, `${prefix}${name}/`));
    return (await Promise.all(inside)).flat();
  },
  async "hub model"(host, folder, prefix) {
    const { files } = host;
    const list = async (name: string) => ((await files.isFolder(`${folder}/${name}`)) ? files.list(`${folder}/${name}`) : []);
    const blobs = await Promise.all(
      (await list("blobs")).map((name) => blobItem(host, `${folder}/blobs/${name}`, name, `${prefix}blobs/${name}`)),
    );
    const missing: Item[] = [];
    for (const file of await filesBelow(files, `${folder}/snapshots`, () => true)) {
      if (await files.exists(`${folder}/snapshots/${file}`)) continue;
      const reason = "the blob that it links to is not there";
      missing.push({ file: `${prefix}snapshots/${file}`, by: "blob", state: "missing", size: 0, reason });
    }
    return [...blobs, ...missing];
  },
};

async function oneFile(host: Host, file: string): Promise<Item[]> {
  const cut = file.lastIndexOf("/");
  return [await structureItem(host, cut < 0 ? "." : file.slice(0, cut), file.slice(cut + 1), "")];
}

/** The files of one folder that are its own: what SHA256SUMS lists, and the others. */
async function plainItems(host: Host, folder: string, prefix: string): Promise<Item[]> {
  const { files, digest } = host;
  const names = await filesBelow(files, folder, (name) => !name.startsWith(".") && !CHECKPOINT.test(name));
  const isOwn = new Set(RUN_FILES);
  const present = new Set(names.filter((name) => name !== SUMS_NAME && !isOwn.has(name)));
  const items: Item[] = [];
  let sums: Map<string, string> | null = null;
  try {
    sums = await readSums(files, folder);
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    items.push({ file: prefix + SUMS_NAME, by: "checksum", state: "damaged", size: 0, reason: error.message });
  }
  const listed = sums ?? new Map(Object.keys((await listedFiles(files, folder)) ?? {}).map((name) => [name, null]));
  for (const [name, sum] of listed) {
    const [file, path] = [prefix + name, `${folder}/${name}`];
    if (!(await files.exists(path))) items.push({ file, by: "checksum", state: "missing", size: 0 });
    else if (sum !== null) items.push(await hashItem(files, path, file, "checksum", sum, () => digest()));
    else continue;
    present.delete(name);
  }
  for (const name of present) {
    const item = sums ? unlisted(prefix + name, `not in ${SUMS_NAME}`) : await structureItem(host, folder, name, prefix);
    items.push(item);
  }
  return items.sort((a, b) => (a.file < b.file ? -1 : 1));
}

const unlisted = (file: string, reason: string): Item => ({ file, by: null, state: "unlisted", size: 0, reason });

/** A file without a checksum: a blob of the hub by its name, another by what its format demands. */
async function structureItem(host: Host, folder: string, name: string, prefix: string): Promise<Item> {
  const { files } = host;
  const [path, file] = [`${folder}/${name}`, prefix + name];
  if (!(await files.exists(path))) {
    return { file, by: "structure", state: "missing", size: 0, reason: "the file that it links to is not there" };
  }
  const [, blob] = /\/blobs\/([^/]+)$/.exec(await files.realPath(path)) ?? [];
  if (blob !== undefined && BLOB.test(blob)) return blobItem(host, path, blob, file);
  const item = { file, by: "structure" as const, size: 0 };
  if (name === INDEX_NAME) return { ...item, check: () => without(openCheckpoint(files, folder)) };
  if (name.endsWith(".json")) return { ...item, check: () => without(readJsonObject(files, path)) };
  if (isGguf(name)) return { ...item, size: await sizeOf(files, path), check: () => checkGguf(files, path) };
  if (!name.endsWith(".safetensors")) return unlisted(file, `no ${SUMS_NAME}, and the format has no checks of its own`);
  return { ...item, size: await sizeOf(files, path), check: () => checkTensors(files, path) };
}

/** The size of a file, 0 for what is none; the check says what it is. */
const sizeOf = (files: Files, path: string): Promise<number> => files.size(path).catch(() => 0);

/** Only whether `work` fails. */
async function* without(work: Promise<unknown>): AsyncGenerator<number> {
  await work;
  yield 0;
}

/** The hub's names of files: the SHA-256 of a large one, git's SHA-1 of another. */
const BLOB = /^([0-9a-f]{64}|[0-9a-f]{40})$/;

async function blobItem({ files, digest }: Host, path: string, name: string, file: string): Promise<Item> {
  if (name.endsWith(".incomplete")) return unlisted(file, "a download that is not complete");
  if (!BLOB.test(name)) return unlisted(file, "its name is an etag, not a hash");
  if (name.length === 64) return hashItem(files, path, file, "blob", name, () => digest());
  return hashItem(files, path, file, "blob", name, (size) => {
    const hash = digest("sha1");
    hash.add(new TextEncoder().encode(`blob ${size}\0`));
    return hash;
  });
}

async function hashItem(
  files: Files,
  path: string,
  file: string,
  by: "checksum" | "blob",
  expected: string,
  begin: (size: number) => Digest,
): Promise<Item> {
  const size = await sizeOf(files, path);
  const check = async function* (): AsyncGenerator<number | string> {
    const now = await files.size(path);
    const hash = begin(now);
    for await (const block of hashed(readInBlocks(files, path, 0, now), hash)) yield block.length;
    const found = hash.end();
    if (found !== expected) yield `expected ${expected}, found ${found}`;
  };
  return { file, by, size, check };
}

/** Header, offsets and sizes of a safetensors file, and whether the values are finite that a model reads. */
async function* checkTensors(files: Files, path: string): AsyncGenerator<number | string> {
  const { tensors, dataOffset } = await readHeader(files, path);
  yield dataOffset;
  const isRead = once(() => reader(files, path));
  for (const [name, entry] of tensors) {
    const { dtype, offset, length } = entry;
    let left = length;
    if (isFloat(dtype)) {
      for await (const block of readInBlocks(files, path, offset, length)) {
        const isFine = allFinite(block, dtype);
        if (!isFine && (await isRead())(entry)) return yield `a value of ${name} is not finite`;
        if (!isFine) break;
        left -= block.length;
        yield block.length;
      }
    }
    yield left;
  }
}

/** Header, offsets and sizes of a GGUF file, its model where it is no adapter, and whether the values of its blocks are finite. */
async function* checkGguf(files: Files, path: string): AsyncGenerator<number | string> {
  const file = await files.realPath(path);
  const header = await readGguf(files, file);
  const factors = () => new Map([...header.tensors].map(([name, tensor]) => [name, { ...tensor, file }]));
  const tensors: ReadonlyMap<string, CheckpointTensor> = isGgufAdapter(header)
    ? factors()
    : (await openCheckpoint(files, path)).tensors;
  for (const [name, tensor] of tensors) {
    const rows = tensor.shape[0]!;
    const step = tensor.layout?.transposed ? rows : Math.max(1, Math.floor((BLOCK_BYTES * rows) / tensor.length));
    for (let row = 0; row < rows; row += step) {
      const values = await readRows(files, tensor, row, Math.min(step, rows - row));
      if (!allFinite(bytesOf(values), "float32")) return yield `a value of ${name} is not finite`;
    }
    yield tensor.length;
  }
}

/** Whether the model whose file it is reads a tensor; true where that can't be known. */
async function reader(files: Files, path: string): Promise<(entry: TensorEntry) => boolean> {
  try {
    const [isRead, file] = [readBy(await openBase(files, path.slice(0, path.lastIndexOf("/")))), await files.realPath(path)];
    return (entry) => isRead(file, entry);
  } catch (error) {
    if (error instanceof LowrankError) return () => true;
    throw error;
  }
}

/** The paths of the files below a folder, sorted. Names that are not wanted are passed over, with what is in them. */
async function filesBelow(files: Files, folder: string, isWanted: (name: string) => boolean): Promise<string[]> {
  const found: string[] = [];
  const visit = async (inner: string, depth: number): Promise<void> => {
    const place = inner === "" ? folder : `${folder}/${inner}`;
    for (const name of (await files.list(place)).sort()) {
      if (!isWanted(name)) continue;
      const path = inner === "" ? name : `${inner}/${name}`;
      if (depth < MAX_DEPTH && (await files.isFolder(`${folder}/${path}`))) await visit(path, depth + 1);
      else found.push(path);
      if (found.length <= MAX_FILES) continue;
      throw new LowrankError("verify/too-many", "there are too many files in the folder", {
        subject: folder,
        expected: `at most ${MAX_FILES}`,
        next: "Give a folder in it.",
      });
    }
  };
  if (await files.isFolder(folder)) await visit("", 0);
  return found;
}
