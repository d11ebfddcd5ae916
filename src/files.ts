// How everything outside runtime/ and cli/ reaches files, so that it runs unchanged in a browser; and which file may be written.
import { LowrankError } from "./errors.ts";

/** Access to files by path. Paths use "/" and may be absolute. Reads past the end are errors, never short. */
export interface Files {
  /** Size in bytes; rejects with a LowrankError that names the path if it is missing or not a regular file. */
  size(path: string): Promise<number>;
  exists(path: string): Promise<boolean>;
  /** Changes whenever the file does (size, times, inode), in a form that only compares; follows links. */
  stamp(path: string): Promise<string>;
  /** With `into`, of that length, the bytes go there. */
  read(path: string, offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /** The path with every symbolic link resolved (the Hugging Face cache is made of links). */
  realPath(path: string): Promise<string>;
  list(folder: string): Promise<string[]>;
  /** Whether it is a folder, or a link to one. */
  isFolder(path: string): Promise<boolean>;
  /** Writes the whole file: to a temporary name beside it, synced, renamed. A crash leaves the old file or the new one. */
  write(path: string, chunks: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void>;
  /** Adds to the end of a file, which is made if it is missing, and syncs. A crash can leave a part of `bytes`. */
  append(path: string, bytes: Uint8Array): Promise<void>;
  /** Makes a folder and those it is in; with `mustBeNew` it fails with `file/exists` if anything is there, and makes no other. */
  makeFolder(folder: string, mustBeNew?: boolean): Promise<void>;
  /** Renames a file or a folder in one step and syncs the folder it is in; `to` must not exist if `from` is a folder. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file, or a folder with all that is in it; nothing happens if the path is missing. */
  remove(path: string): Promise<void>;
}

/** A lock that keeps other runs out of a folder. */
export interface Lock {
  /** Fails with `file/lock-lost` if another run may have the lock by now. */
  check(): Promise<void>;
  /** Resolves to whether the lock was still held. */
  release(): Promise<boolean>;
}

/** The lock file of a folder, unless it has another name. */
export const LOCK_NAME = ".lowrank.lock";

/**
 * Locks `folder`, which exists, by a file of this name in it. Fails with `file/locked` if another run has it; the lock of a
 * killed run is replaced.
 */
export type LockFolder = (folder: string, name?: string) => Promise<Lock>;

/** Largest JSON or text side file (config.json, tokenizer.json, index) that is read whole. */
export const MAX_TEXT_BYTES = 128 * 1024 * 1024;

export interface OutputFile {
  /** Replace the file if it exists. */
  force?: boolean;
  /** What is never written over: folders with all that is in them, and files. What is missing is passed over. */
  inputs: readonly (string | undefined)[];
}

/**
 * Fails if a file that is named to be written exists (`file/exists`, unless `force`), or, links resolved, is one of `inputs` or lies in
 * one (`file/input`).
 */
export async function checkOutputFile(files: Files, file: string, { force = false, inputs }: OutputFile): Promise<void> {
  const [place, isThere] = [await placeOf(files, file), await files.exists(file)];
  for (const input of inputs) {
    if (input === undefined || !(await files.exists(input))) continue;
    const own = await files.realPath(input);
    // Files of a folder can be links out of it, as in the hub's cache.
    const linked = isThere && (await files.isFolder(input)) ? (await files.list(input)).map((name) => `${input}/${name}`) : [];
    const places = await Promise.all(linked.map((one) => files.realPath(one).catch(() => one)));
    if (place !== own && !place.startsWith(`${own.replace(/\/$/, "")}/`) && !places.includes(place)) continue;
    throw new LowrankError("file/input", "the file would be written over what the command reads, or into its folder", {
      subject: file,
      expected: "a file of its own, in a folder that is no model, run or data",
      got: place === own ? input : `a place in ${input}`,
      next: "Choose another name.",
    });
  }
  if (isThere && !force) {
    throw new LowrankError("file/exists", "the file exists already", {
      subject: file,
      next: "Choose another name, or replace it with --force (force).",
    });
  }
}

/** The real path of what may not exist yet: that of the nearest folder above that does, and the rest. */
async function placeOf(files: Files, path: string): Promise<string> {
  if (await files.exists(path)) return files.realPath(path);
  const [, parent = "", slash, name] = /^(.*?)([\\/]?)([^\\/]*[\\/]*)$/.exec(path)!;
  const above = parent || (slash ? "/" : ".");
  return above === path ? path : `${(await placeOf(files, above)).replace(/\/$/, "")}/${name}`;
}
