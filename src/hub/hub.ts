// A model on the hub to a folder: its snapshot in the cache, downloaded where it is not there.
import { copyFile, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pace, stopwatch } from "../clock.ts";
import { LowrankError } from "../errors.ts";
import { INDEX_NAME, WEIGHTS_NAME } from "../formats/checkpoint.ts";
import { named, nodeFiles } from "../platform/node/files.ts";
import { freeDisk } from "../platform/node/host.ts";
import type { HubEvent, HubOptions } from "../platform/platform.ts";
import {
  ASKED_FOR,
  absentFolder,
  cachedCommit,
  cachedSnapshot,
  cacheFolder,
  type HubName,
  modelFolder,
  refFile,
  shardsOf,
} from "./cache.ts";
import { connect, type Hub } from "./client.ts";
import { hubError } from "./failures.ts";
import { checkWeights, type HubFile, type Listing, listModel, sideFilesOf, weightsOf } from "./listing.ts";
import { bytesThere, fileSize, transfer } from "./transfer.ts";

/** Of the disk, left free by a download. */
const DISK_MARGIN_BYTES = 100e6;
/** Least seconds between two reports of progress. */
const PROGRESS_SECONDS = 0.2;

/**
 * The folder of a model: its snapshot in the cache, after a download of what is missing there. A snapshot that is whole is
 * used without any request, so a branch stays the commit that it was unless `refresh` is true. Throws `hub/*`.
 */
export async function hubFolder(name: HubName, options: HubOptions = {}): Promise<string> {
  const { environment = process.env, offline = isOn(environment["HF_HUB_OFFLINE"]), refresh = false } = options;
  const cache = cacheFolder(environment);
  const found = await cachedSnapshot(cache, name);
  if (found && found.state !== "partial" && (offline || (found.state === "whole" && !refresh))) return found.folder;
  if (!offline) return download(cache, name, options);
  throw new LowrankError("hub/offline", found ? "the cache holds only a part of the model" : "the model is not in the cache", {
    subject: `${name.id}@${name.revision}`,
    expected: `a snapshot in ${cache}`,
    next: "Run it once without --offline and HF_HUB_OFFLINE, or give a folder.",
  });
}

const isOn = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");

async function download(cache: string, name: HubName, options: HubOptions): Promise<string> {
  const { environment = process.env, onEvent = () => {}, signal } = options;
  const wait = async (seconds: number, reason: string): Promise<void> => {
    onEvent({ type: "waiting", seconds, reason });
    await (options.wait?.(seconds, reason) ?? sleep(1000 * seconds, undefined, { signal }));
  };
  const hub = connect(environment, { name, signal, wait });
  if (hub.plainToken) onEvent({ type: "plain-token", endpoint: hub.endpoint, sent: hub.plainToken === "sent" });
  const listing = await listModel(hub);
  checkWeights(listing, hub);
  const { commit } = listing;
  const home = modelFolder(cache, name.id);
  const blobs = path.join(home, "blobs");
  const folder = path.join(home, "snapshots", commit);
  await nodeFiles.makeFolder(blobs);
  await nodeFiles.makeFolder(folder);
  const get = async (file: HubFile, onProgress: (done: number) => void = () => {}): Promise<void> => {
    const target = path.join(blobs, file.blob);
    await named(target, async () => {
      if ((await fileSize(target)) !== file.size) await transfer({ hub, commit, file, target, onProgress });
      await link(target, path.join(folder, file.path));
    });
  };

  const index = listing.files.has(WEIGHTS_NAME) ? undefined : listing.files.get(INDEX_NAME);
  if (index) await get(index);
  const shards = index ? await shardsOf(path.join(folder, INDEX_NAME)) : [];
  if (shards === null) {
    throw hubError("index", "the index of shards cannot be read", hub, {
      subject: `${name.id}/${INDEX_NAME}`,
      expected: 'an object with "weight_map": { tensor name: file name }',
      next: "The model on the hub is damaged; report it to its owner, or use another revision.",
      exitCode: 2,
    });
  }
  const files = [...sideFilesOf(listing, hub), ...weightsOf(listing, shards, hub)];
  const done = await Promise.all(files.map((file) => bytesThere(path.join(blobs, file.blob), file)));
  const [bytes, there] = [sum(files.map(({ size }) => size)), sum(done)];
  await checkDisk(cache, hub, bytes - there);
  onEvent({ type: "download", model: name.id, commit, folder, files: files.length, bytes, there });
  const report = progress(bytes, there, onEvent);
  for (const [i, file] of files.entries()) {
    await get(file, (bytesDone) => {
      done[i] = bytesDone;
      report(file.path, sum(done));
    });
  }
  await finish(cache, name, listing);
  onEvent({ type: "downloaded", model: name.id, commit, folder });
  return folder;
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Reports the progress of a download, some times a second; the speed is that of this download so far. */
function progress(bytes: number, there: number, onEvent: (event: HubEvent) => void): (file: string, done: number) => void {
  const elapsed = stopwatch();
  const isDue = pace(PROGRESS_SECONDS);
  return (file, done) => {
    if (!isDue() && done < bytes) return;
    const seconds = elapsed();
    const bytesPerSecond = seconds > 1 && done > there ? (done - there) / seconds : null;
    const secondsLeft = bytesPerSecond && (bytes - done) / bytesPerSecond;
    onEvent({ type: "downloading", file, done, bytes, bytesPerSecond, secondsLeft });
  };
}

async function checkDisk(cache: string, hub: Hub, needed: number): Promise<void> {
  const free = await freeDisk(cache);
  if (needed === 0 || needed + DISK_MARGIN_BYTES <= free) return;
  throw hubError("disk", "the model does not fit on the cache's disk", hub, {
    expected: `${(needed / 1e9).toFixed(2)} GB in ${cache}`,
    got: `${(free / 1e9).toFixed(2)} GB free`,
    next: "Free some space, or set HF_HOME to a folder on another disk.",
  });
}

/** A name in the snapshot for a blob: a relative link as Python makes it, a copy where the system allows no links. */
async function link(blob: string, file: string): Promise<void> {
  await nodeFiles.makeFolder(path.dirname(file));
  await rm(file, { force: true });
  try {
    await symlink(path.relative(path.dirname(file), blob), file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EPERM" || code === "ENOSYS") await copyFile(blob, file);
    else if (code !== "EEXIST") throw error; // another process was first
  }
}

/**
 * Notes what the model does not have, so that it is not asked for again, and which commit the branch is. Python reads every file
 * in refs/ as a branch, so what a kill leaves is in blobs/, under a name that the next download takes again.
 */
async function finish(cache: string, name: HubName, { commit, files }: Listing): Promise<void> {
  const absent = absentFolder(cache, name.id, commit);
  for (const file of ASKED_FOR.model.filter((each) => !files.has(each))) {
    await nodeFiles.makeFolder(absent);
    await nodeFiles.append(path.join(absent, file), new Uint8Array());
  }
  if (name.revision === commit) return;
  const ref = refFile(cache, name);
  const made = path.join(modelFolder(cache, name.id), "blobs", `${commit}.incomplete`);
  await nodeFiles.makeFolder(path.dirname(ref));
  await named(ref, async () => {
    await writeFile(made, commit, { flush: true });
    await nodeFiles.rename(made, ref).catch(async (error) => {
      if ((await cachedCommit(cache, name)) !== commit) throw error; // else another process was first
    });
  });
}
