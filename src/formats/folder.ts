// A folder written whole or not at all: filled in a folder of its own beside its place, then renamed to it.
import { LowrankError } from "../errors.ts";
import { type Files, LOCK_NAME, type LockFolder } from "../files.ts";
import { isObject, parseJson, readText } from "./json.ts";

/** In every folder that is being filled. In one that is being emptied into its place: the sizes of what is moved, by name. */
const MARK = ".lowrank-unfinished.json";
const ID = "[\\da-f]{8}(?:-[\\da-f]{4}){3}-[\\da-f]{12}";

/** Sizes in bytes of files, by name; null for a folder. */
type Sizes = Map<string, number | null>;

export interface WriteFolderOptions {
  /** Without it nothing keeps two writers apart, and nothing that a killed one left is removed. */
  lock?: LockFolder;
  /** Called before anything is written, with a folder on the disk that is written to. */
  check?: (folder: string) => Promise<void>;
}

/**
 * Lets `fill` write into a new folder, `.<name>.<id>.new`, and renames it to `target`; parent folders are made. It is beside the
 * target, or inside one that exists (a mounted folder can't be replaced): then its entries move, config.json as the last.
 * A `target` that holds anything is refused (`folder/not-empty`) before `fill` starts, and so is one that is written to at the
 * moment (`file/locked`). When `fill` fails, nothing is left; what a killed process left is removed by the next for this target.
 */
export async function writeFolder(
  files: Files,
  target: string,
  fill: (folder: string) => Promise<void>,
  { lock, check }: WriteFolderOptions = {},
): Promise<void> {
  const isThere = await files.exists(target);
  const place = isThere ? await files.realPath(target) : target.replace(/(?<=[^/])\/+$/, "");
  const cut = place.lastIndexOf("/");
  const name = place.slice(cut + 1);
  const around = isThere ? place : cut > 0 ? place.slice(0, cut) : cut === 0 ? "/" : ".";
  const unfinished = new RegExp(`^\\.${name.replace(/[^\w]/g, "\\$&")}\\.${ID}\\.new$`);
  const refuseFull = async (): Promise<void> => {
    const held = (await files.exists(place)) ? (await files.list(place)).filter((entry) => !isLock(entry)) : [];
    if (held.length > 0) throw notEmpty(target, held);
  };
  if (!isThere) await files.makeFolder(around);
  // Before a lock is waited for; what a killed process left is looked at under the lock.
  else if (!lock || !(await files.list(place)).some((entry) => unfinished.test(entry))) await refuseFull();
  const held = await lock?.(around, isThere ? LOCK_NAME : `.${name}${LOCK_NAME}`);
  try {
    if (held) await removeUnfinished(files, around, (entry) => unfinished.test(entry));
    await refuseFull();
    await check?.(around);
    const making = `${around}/.${name}.${crypto.randomUUID()}.new`;
    const moved: string[] = [];
    await files.makeFolder(making, true);
    try {
      await files.write(`${making}/${MARK}`, new TextEncoder().encode("{}\n"));
      await fill(making);
      await held?.check();
      if (!isThere) await files.rename(making, place);
      else for await (const entry of moveEntries(files, making, place)) moved.push(entry);
    } catch (error) {
      for (const entry of moved) await files.remove(`${place}/${entry}`).catch(() => {});
      await discard(files, making).catch(() => {}); // it is gone, or another writer's by now: what failed first is reported
      throw error;
    }
    await files.remove(isThere ? making : `${place}/${MARK}`);
  } finally {
    await held?.release();
  }
}

const isLock = (entry: string): boolean => entry.startsWith(LOCK_NAME);

/** Moves what is in `making` to the folder that it is in, config.json as the last: without it no reader finds a model. */
async function* moveEntries(files: Files, making: string, place: string): AsyncGenerator<string> {
  const [own] = making.split("/").slice(-1);
  const others = (await files.list(place)).filter((entry) => entry !== own && !isLock(entry));
  if (others.length > 0) throw notEmpty(place, others);
  const entries = (await files.list(making)).filter((entry) => entry !== MARK);
  const last = (entry: string) => Number(entry === "config.json");
  const sizes = Object.fromEntries(await sizesOf(files, making, entries));
  await files.write(`${making}/${MARK}`, new TextEncoder().encode(`${JSON.stringify(sizes)}\n`));
  for (const entry of entries.sort((a, b) => last(a) - last(b))) {
    yield entry;
    await files.rename(`${making}/${entry}`, `${place}/${entry}`);
  }
}

async function sizesOf(files: Files, folder: string, entries: readonly string[]): Promise<Sizes> {
  const sizes: Sizes = new Map();
  for (const entry of entries) {
    const path = `${folder}/${entry}`;
    sizes.set(entry, (await files.isFolder(path)) ? null : await files.size(path));
  }
  return sizes;
}

/**
 * Removes from `around`, whose lock is held, what killed writers left: folders of that name with our mark, and what one of them
 * has moved out of it, if there is nothing else. One that had nothing left to move was done.
 */
async function removeUnfinished(files: Files, around: string, isUnfinished: (entry: string) => boolean): Promise<void> {
  const entries = await files.list(around);
  for (const entry of entries.filter(isUnfinished)) {
    const folder = `${around}/${entry}`;
    if (!(await files.isFolder(folder)) || (await files.realPath(folder)) !== `${await files.realPath(around)}/${entry}`)
      continue;
    const inside = await files.list(folder);
    const isOurs = inside.includes(MARK) || inside.every((name) => name.startsWith(".lowrank-")); // killed while the mark was written
    if (!isOurs) continue;
    const moving = inside.some((name) => name !== MARK) ? await readMark(files, `${folder}/${MARK}`) : new Map();
    const others = moving.size > 0 ? entries.filter((other) => !isUnfinished(other) && !isLock(other)) : [];
    const found = await sizesOf(files, around, others);
    if (others.every((other) => moving.get(other) === found.get(other))) {
      for (const other of others) await files.remove(`${around}/${other}`);
    }
    await discard(files, folder);
  }
}

/** Removes a folder, its mark as the last, so that what a kill leaves of it is known by it. */
async function discard(files: Files, folder: string): Promise<void> {
  for (const entry of await files.list(folder)) if (entry !== MARK) await files.remove(`${folder}/${entry}`);
  await files.remove(folder);
}

async function readMark(files: Files, file: string): Promise<Sizes> {
  try {
    const sizes = parseJson(await readText(files, file), file);
    return new Map(isObject(sizes) ? (Object.entries(sizes) as [string, number | null][]) : []);
  } catch {
    return new Map(); // it was cut off: nothing had been moved
  }
}

const notEmpty = (subject: string, entries: readonly string[]): LowrankError =>
  new LowrankError("folder/not-empty", "the output folder is not empty", {
    subject,
    expected: "a new or an empty folder",
    got: `${entries.slice(0, 8).join(", ")}${entries.length > 8 ? ", …" : ""}`,
    next: "Choose another output folder, or empty this one.",
  });
