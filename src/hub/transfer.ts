// One file of a model into blobs/: resumed where a partial file is there, checked by size and hash, whole before it has its name.
import { createHash, type Hash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, rename, rm } from "node:fs/promises";
import { LowrankError } from "../errors.ts";
import { withFile } from "../platform/node/files.ts";
import { statOf } from "./cache.ts";
import { type Answer, type Hub, MAX_RETRIES, pause, request } from "./client.ts";
import type { HubResponse } from "./connection.ts";
import { hubError, stopped, unreachable } from "./failures.ts";
import type { HubFile } from "./listing.ts";

/** Bytes after which a connection that was cut counts as one that works. */
const PROGRESS_BYTES = 1024 * 1024;
const BLOCK_BYTES = 4 * 1024 * 1024;

export interface Transfer {
  hub: Hub;
  commit: string;
  file: HubFile;
  /** Where the file goes; `.incomplete` at its end until it is whole, as Python has it. */
  target: string;
  /** Bytes of the file that are there. */
  onProgress: (done: number) => void;
}

/** A partial file: what is written so far, and the hash of it. */
interface Partial {
  handle: FileHandle;
  hash: Hash;
  done: number;
}

/** Bytes of a file that are there already: all of them if it has its name, else those of the partial file. */
export async function bytesThere(target: string, { size }: HubFile): Promise<number> {
  if ((await fileSize(target)) === size) return size;
  return Math.min((await fileSize(`${target}.incomplete`)) ?? 0, size);
}

export const fileSize = async (file: string): Promise<number | null> => (await statOf(file))?.size ?? null;

/**
 * Downloads a file. Writes are at fixed offsets of the partial file, so that two processes that download the same file do no
 * harm to each other. A partial file that turns out wrong is downloaded anew once. Throws `hub/*`, or the system's error where
 * the cache cannot be written.
 */
export async function transfer(task: Transfer): Promise<void> {
  const { hub, target, file } = task;
  const incomplete = `${target}.incomplete`;
  for (let attempt = 0; ; attempt++) {
    const began = (await fileSize(incomplete)) ?? 0;
    const isRight = await fill(task, incomplete);
    if (isRight) break;
    await rm(incomplete, { force: true });
    if (began > 0 && attempt === 0) continue;
    throw hubError("hash", "the file that came is not the one the model lists", hub, {
      subject: `${hub.name.id}/${file.path}`,
      expected: `the hash ${file.blob}`,
      next: "Run the same again; the file was removed. If it stays so, something between here and the hub changes files.",
    });
  }
  await rename(incomplete, target).catch(async (error) => {
    if ((await fileSize(target)) !== file.size) throw error; // else another process was first
  });
}

/** Downloads what is missing of a partial file; resolves to whether the whole has the right hash. */
async function fill(task: Transfer, incomplete: string): Promise<boolean> {
  const { hub, file } = task;
  return withFile(incomplete, constants.O_RDWR | constants.O_CREAT, async (handle) => {
    const partial: Partial = { handle, hash: hashOf(file), done: 0 };
    await hashExisting(partial, file);
    task.onProgress(partial.done);
    let failures = 0;
    while (partial.done < file.size) {
      const before = partial.done;
      const failure = await fetchRest(task, partial);
      if (failure === null) continue;
      failures = partial.done - before >= PROGRESS_BYTES ? 1 : failures + 1;
      if (failures > MAX_RETRIES) throw failure;
      await pause(hub, Math.min(8, 2 ** failures / 4), failure.message);
    }
    // What could not be synced may read back right and not be on the disk.
    await handle.sync().catch((error) => rm(incomplete, { force: true }).finally(() => Promise.reject(error)));
    return partial.hash.digest("hex") === file.blob;
  });
}

/** The hash that names a blob: SHA-256, or that of git, which has the length in front. */
const hashOf = ({ blob, size }: HubFile): Hash =>
  blob.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);

async function hashExisting(partial: Partial, { size }: HubFile): Promise<void> {
  const { handle, hash } = partial;
  if ((await handle.stat()).size > size) await handle.truncate(0);
  const block = Buffer.allocUnsafe(BLOCK_BYTES);
  for (;;) {
    const { bytesRead } = await handle.read(block, 0, block.length, partial.done);
    if (bytesRead === 0) return;
    hash.update(block.subarray(0, bytesRead));
    partial.done += bytesRead;
  }
}

/** Asks for the bytes from `done` on and writes what comes; the failure if that ended too early, null if it did not. */
async function fetchRest(task: Transfer, partial: Partial): Promise<LowrankError | null> {
  const { hub, commit, file } = task;
  const url = `${hub.endpoint}/${hub.name.id}/resolve/${commit}/${file.path.split("/").map(encodeURIComponent).join("/")}`;
  const from = partial.done;
  const headers: Record<string, string> = from > 0 ? { range: `bytes=${from}-` } : {};
  const answer = await request(hub, url, { headers, statuses: [416] });
  try {
    checkLength(answer.response, task, from);
    if (from > 0 && answer.response.status !== 206) await startOver(partial, file);
    await writeBody(answer, task, partial);
  } catch (error) {
    if (hub.signal?.aborted) throw stopped(hub);
    if (error instanceof LowrankError || (error as NodeJS.ErrnoException).syscall === "write") throw error;
    return unreachable(hub, url, error);
  } finally {
    answer.watch("ended");
  }
  if (partial.done === file.size) return null;
  return unreachable(hub, url, new Error(`the connection ended ${file.size - partial.done} bytes too early`));
}

/** A server that does not give parts of files sends the whole: what is there is written again. */
async function startOver(partial: Partial, file: HubFile): Promise<void> {
  await partial.handle.truncate(0);
  partial.hash = hashOf(file);
  partial.done = 0;
}

/** Refuses an answer whose length is not the one the listing has, before anything of it is written. */
function checkLength({ status, headers }: HubResponse, task: Transfer, from: number): void {
  const [, start, , whole] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headers.get("content-range") ?? "") ?? [];
  const [, there] = /^bytes \*\/(\d+)$/.exec(headers.get("content-range") ?? "") ?? [];
  const isEncoded = ![null, "identity"].includes(headers.get("content-encoding"));
  const length = isEncoded ? null : headers.get("content-length");
  const sent = status === 206 ? whole : status === 416 ? there : length;
  if (status === 206 && Number(start) !== from) throw wrongSize(task, `a part from byte ${start ?? "?"}, asked for from ${from}`);
  if (status === 416 || (sent !== null && sent !== undefined && Number(sent) !== task.file.size))
    throw wrongSize(task, `${sent ?? "?"} bytes`);
}

/** A disk that stalls is waited for; it is no silence of the hub. */
async function writeBody({ response, watch }: Answer, task: Transfer, partial: Partial): Promise<void> {
  for await (const part of response.body) {
    watch("busy");
    if (partial.done + part.length > task.file.size) throw wrongSize(task, "more bytes than that");
    for (let written = 0; written < part.length; ) {
      written += (await partial.handle.write(part, written, part.length - written, partial.done + written)).bytesWritten;
    }
    partial.hash.update(part);
    partial.done += part.length;
    task.onProgress(partial.done);
    watch("waiting");
  }
}

const wrongSize = ({ hub, file }: Transfer, got: string): LowrankError =>
  hubError("size", "the file that comes has another size than the model lists", hub, {
    subject: `${hub.name.id}/${file.path}`,
    expected: `${file.size} bytes`,
    got,
    next: "Try again later; check HF_ENDPOINT if it is set. If it stays so, something between here and the hub changes files.",
  });
