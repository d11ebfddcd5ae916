// Where Node keeps converted weights from session to session: a folder of the user's cache.
import { homedir } from "node:os";
import path from "node:path";
import { CACHE_LEAST_BYTES, type PartCache } from "../../runtime/part-cache.ts";
import { nodeFiles } from "./files.ts";
import { digest, freeDisk } from "./host.ts";
import { lockFolder } from "./lock.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A path with `~` for the home folder, made absolute. */
export const expanded = (folder: string): string => path.resolve(folder.replace(/^~(?=$|[/\\])/, homedir()));

/** The folder in which programs keep what they can make again. */
export const userCache = ({ XDG_CACHE_HOME }: Environment): string =>
  XDG_CACHE_HOME ? expanded(XDG_CACHE_HOME) : path.join(homedir(), ".cache");

/** The folder of converted weights; null if LOWRANK_CACHE switches the cache off. */
export function partCacheFolder(environment: Environment): string | null {
  const { LOWRANK_CACHE: given } = environment;
  if (given && /^(0|off|no|false)$/i.test(given)) return null;
  return `${given ? expanded(given) : path.join(userCache(environment), "lowrank")}/weights`;
}

/** The cache that the environment names. */
export const partCache = (environment: Environment = process.env): PartCache => ({
  folder: partCacheFolder(environment),
  files: nodeFiles,
  digest,
  freeDisk,
  lock: lockFolder,
  leastBytes: CACHE_LEAST_BYTES,
});
