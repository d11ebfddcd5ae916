// The Files interface on Node's file system: positioned reads, whole-or-absent writes. Follows rename(2) and fsync(2).
import { constants as bufferLimits } from "node:buffer";
import { randomUUID } from "node:crypto";
import { constants, type Stats } from "node:fs";
import {
  appendFile,
  type FileHandle,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} from "node:fs/promises";
import path from "node:path";
import { type Failure, LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";

/** The name of an unfinished file; all that a killed process leaves behind. */
const temporaryBeside = (file: string) => path.join(path.dirname(file), `.lowrank-${randomUUID()}.tmp`);

/** Largest single read(2); Linux transfers at most 2 GiB a call. */
const MAX_READ_CALL = 1 << 30;

type Reason = [code: string, message: string, next?: string, exitCode?: 1 | 2];
const DENIED: Reason = ["file/denied", "permission denied", "Check the owner and mode of the file and its folder."];
const IO_NEXT = "Check the disk, or the server that the folder is on, then run again.";
const FREE_SPACE = "Free some space, then run again.";
const REASONS: Record<string, Reason> = {
  ENOENT: ["file/missing", "no such file or folder", "Check the path."],
  ENOTDIR: ["file/not-folder", "part of the path is not a folder", "Check the path."],
  EISDIR: ["file/not-regular", "is a folder, not a file", "Give the path of a file."],
  EACCES: DENIED,
  EPERM: DENIED,
  EROFS: ["file/read-only", "the file system is read-only", "Choose another folder."],
  ELOOP: ["file/link-loop", "too many symbolic links", "Repair the links."],
  ENAMETOOLONG: ["file/name-too-long", "the name is too long for the file system", "Choose a shorter name."],
  ERR_INVALID_ARG_VALUE: ["file/name", "no file can have this name: it has a NUL in it", "Correct the path."],
  ENOTEMPTY: ["file/not-empty", "the folder is not empty", "Choose another folder, or empty this one."],
  EEXIST: ["file/exists", "exists already", "Choose another name, or remove it."],
  ENOSPC: ["file/no-space", "no space left on the disk", FREE_SPACE, 1],
  EDQUOT: ["file/no-space", "the disk quota is used up", FREE_SPACE, 1],
};

/** Runs `work`; a system error becomes a LowrankError that names `subject`. */
export async function named<T>(subject: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const system = (error as NodeJS.ErrnoException)?.code;
    if (error instanceof LowrankError || typeof system !== "string") throw error;
    const [code, message, next, exitCode] = REASONS[system] ?? ["file/io", (error as Error).message, IO_NEXT, 1];
    throw new LowrankError(code, message, { subject, next, exitCode, cause: error });
  }
}

/** A text that is read if it can be, as of a file that not every system has. */
export function orEmpty(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

/** Runs `work` on an open file, which is closed however that ends. */
export async function withFile<T>(file: string, flags: string | number, work: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await open(file, flags);
  try {
    return await work(handle);
  } finally {
    await handle.close();
  }
}

const fail = (code: string, message: string, failure: Failure): never => {
  throw new LowrankError(code, message, failure);
};

/** Size of a regular file. Asked before `open`, which would wait for ever on a named pipe. */
async function regularSize(file: string): Promise<number> {
  const there = await stat(file);
  if (there.isFile()) return there.size;
  const isFolder = there.isDirectory();
  return fail("file/not-regular", "not a regular file", {
    subject: file,
    expected: "a regular file",
    got: isFolder ? "a folder" : "a pipe, socket or device",
    next: isFolder ? "Give a file in it." : "Give the path of a file.",
  });
}

/** What the system says of a path; null if nothing is there. */
const found = (file: string): Promise<Stats | null> =>
  stat(file).catch((error) => (/^(ENOENT|ENOTDIR)$/.test(error.code) ? null : Promise.reject(error)));

async function readRange(file: string, offset: number, length: number, into?: Uint8Array): Promise<Uint8Array> {
  const size = await regularSize(file);
  const inside = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (!inside || offset + length > size) {
    fail("file/past-end", "a read past the end of the file", {
      subject: file,
      expected: `at most ${size} bytes`,
      got: `${length} bytes from offset ${offset}`,
      next: "The file is shorter than its header or index states; fetch it again.",
    });
  }
  if (length > bufferLimits.MAX_LENGTH) {
    fail("file/read-too-long", "one read is longer than a buffer can be", {
      subject: file,
      expected: `at most ${bufferLimits.MAX_LENGTH} bytes`,
      got: `${length} bytes`,
      next: "Read it in parts.",
    });
  }
  const bytes = into ?? new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
  await withFile(file, "r", async (handle) => {
    for (let done = 0; done < length; ) {
      const { bytesRead } = await handle.read(bytes, done, Math.min(length - done, MAX_READ_CALL), offset + done);
      if (bytesRead === 0) {
        fail("file/past-end", "the file became shorter while it was read", {
          subject: file,
          expected: `${length} bytes from offset ${offset}`,
          got: `${done} bytes`,
          next: "Leave the file alone while it is in use.",
        });
      }
      done += bytesRead;
    }
  });
  return bytes;
}

/** What file systems without a sync of folders say. */
const NO_FOLDER_SYNC = ["EINVAL", "EBADF", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"];

/** Makes the names inside `folder` durable. Windows has no such call and needs none, nor have some network file systems. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  await withFile(folder, "r", (handle) => handle.sync()).catch((error) => {
    if (!NO_FOLDER_SYNC.includes(error.code)) throw error;
  });
}

/** rename(2), where an error counts only if `from` has not arrived: over NFS an answer can be lost, and the second try fails. */
async function move(from: string, to: string): Promise<void> {
  const { dev, ino } = await lstat(from, { bigint: true });
  await rename(from, to).catch(async (error) => {
    const there = await lstat(to, { bigint: true }).catch(() => null);
    const isLeft = await lstat(from).then(
      () => true,
      () => false,
    );
    if (isLeft || there?.dev !== dev || there.ino !== ino) throw error;
  });
}

async function writeWhole(file: string, chunks: Parameters<Files["write"]>[1]): Promise<void> {
  const temporary = temporaryBeside(file);
  try {
    await writeFile(temporary, chunks, { flag: "wx", flush: true });
    await move(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(path.dirname(file));
}

/** As Node's "a", but never through a link. */
const APPEND = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | (constants.O_NOFOLLOW ?? 0);

async function appendDurably(file: string, bytes: Uint8Array): Promise<void> {
  const there = await lstat(file).catch((error) => (error.code === "ENOENT" ? null : Promise.reject(error)));
  if (there?.isSymbolicLink()) {
    fail("file/link", "a symbolic link leads to another place than what is written", {
      subject: file,
      expected: "a regular file, or none",
      got: `a link to ${await readlink(file)}`,
      next: "Remove the link, or choose another output folder.",
    });
  }
  if (there) await regularSize(file);
  await appendFile(file, bytes, { flag: APPEND, flush: true });
  if (!there) await syncFolder(path.dirname(file));
}

/**
 * Makes a folder and those it is in. Node's own (mkdir with `recursive`) never ends where the system says that a folder is
 * missing whose parent is there, as under /proc.
 */
async function makeFolders(folder: string): Promise<void> {
  try {
    await mkdir(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && path.dirname(folder) !== folder) {
      await makeFolders(path.dirname(folder));
      await mkdir(folder).catch((again) => again.code === "EEXIST" || Promise.reject(again));
    } else if (!(await stat(folder).catch(() => null))?.isDirectory()) throw error;
  }
}

/** An empty folder at `to` gives way (rmdir refuses any other); what `from` holds was synced as it was written. */
async function renameDurably(from: string, to: string): Promise<void> {
  const isFolder = (await named(from, () => stat(from))).isDirectory();
  if (isFolder) {
    await syncFolder(from);
    await rmdir(to).catch((error) => error.code === "ENOENT" || Promise.reject(error));
  }
  await move(from, to);
  const [source, target] = [path.dirname(path.resolve(from)), path.dirname(path.resolve(to))];
  await syncFolder(target);
  if (source !== target) await syncFolder(source);
}

/** Node's files. `list` is sorted. */
export const nodeFiles: Files = {
  size: (file) => named(file, () => regularSize(file)),
  exists: (file) => named(file, async () => (await found(file)) !== null),
  // The time of the last change (ctime) cannot be set by hand. The device's number is no part of it: each client of a network file system
  // has its own.
  stamp: (file) =>
    named(file, async () => {
      const { size, mtimeNs, ctimeNs, ino } = await stat(file, { bigint: true });
      return [size, mtimeNs, ctimeNs, ino].join(" ");
    }),
  read: (file, offset, length, into) => named(file, () => readRange(file, offset, length, into)),
  realPath: (file) => named(file, async () => (await realpath(file)).split(path.sep).join("/")),
  list: (folder) => named(folder, async () => (await readdir(folder)).sort()),
  isFolder: (file) => named(file, async () => (await found(file))?.isDirectory() ?? false),
  write: (file, chunks) => named(file, () => writeWhole(file, chunks)),
  append: (file, bytes) => named(file, () => appendDurably(file, bytes)),
  makeFolder: (folder, mustBeNew) => named(folder, () => (mustBeNew ? mkdir(folder) : makeFolders(path.resolve(folder)))),
  rename: (from, to) => named(to, () => renameDurably(from, to)),
  remove: (file) => named(file, () => rm(file, { recursive: true, force: true })),
};
