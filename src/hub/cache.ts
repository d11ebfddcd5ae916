// The cache of models from the hub that Python's huggingface_hub and this project share: its place, layout and what is whole in it.
import type { Stats } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { INDEX_NAME, WEIGHTS_NAME } from "../formats/checkpoint.ts";
import { type Environment, expanded, userCache } from "../platform/node/part-cache.ts";

export type { Environment } from "../platform/node/part-cache.ts";

export interface HubName {
  /** `owner/name`. */
  id: string;
  /** A branch, a tag or a commit. */
  revision: string;
}

export const DEFAULT_REVISION = "main";
export const COMMIT = /^[0-9a-f]{40}$/;

/** Largest index of shards that is read. */
const MAX_INDEX_BYTES = 64 * 1024 * 1024;

/** Hugging Face's own folder: the token and, by default, the cache are in it. */
export const hubHome = (environment: Environment): string =>
  environment["HF_HOME"] ? expanded(environment["HF_HOME"]) : path.join(userCache(environment), "huggingface");

/** Folder of the cache, by the environment variables that Python honours. */
export function cacheFolder(environment: Environment): string {
  const given = environment["HF_HUB_CACHE"] || environment["HUGGINGFACE_HUB_CACHE"];
  return given ? expanded(given) : path.join(hubHome(environment), "hub");
}

/** A model's folder in the cache: blobs/ has files by hash, snapshots/<commit>/ their names, refs/ the commits of branches. */
export const modelFolder = (cache: string, id: string): string => path.join(cache, `models--${id.replaceAll("/", "--")}`);

/** Where empty files stand for what a commit does not have, as Python notes it. */
export const absentFolder = (cache: string, id: string, commit: string): string =>
  path.join(modelFolder(cache, id), ".no_exist", commit);

/** Where the commit of a branch or a tag is kept. */
export const refFile = (cache: string, { id, revision }: HubName): string =>
  path.join(modelFolder(cache, id), "refs", ...revision.split("/"));

/** The commit that a revision was when it was last asked for; null if it never was. */
export async function cachedCommit(cache: string, { id, revision }: HubName): Promise<string | null> {
  if (COMMIT.test(revision)) return revision;
  const text = await readFile(refFile(cache, { id, revision }), "utf8").catch(() => "");
  return COMMIT.test(text.trim()) ? text.trim() : null;
}

/** What a snapshot in the cache is good for. */
export interface Snapshot {
  folder: string;
  commit: string;
  /** "whole": nothing that is used is missing. "usable": weights are there, files beside them may not be. */
  state: "whole" | "usable" | "partial";
}

/** Files beside the weights that a use may need; Python notes in `.no_exist` those that a repository does not have. */
export const ASKED_FOR: { model: string[]; adapter: string[] } = {
  model: ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"],
  adapter: [],
};

/** The snapshot of a revision, if the cache has its folder. Links to files that are not there count as missing. */
export async function cachedSnapshot(cache: string, name: HubName): Promise<Snapshot | null> {
  const commit = await cachedCommit(cache, name);
  if (commit === null) return null;
  const home = modelFolder(cache, name.id);
  const folder = path.join(home, "snapshots", commit);
  const isThere = (file: string) => isFile(path.join(folder, file));
  if ((await readdir(folder).catch(() => [])).length === 0) return null;
  const isModel = (await isThere("config.json")) && (await hasWeights(folder));
  const isAdapter = (await isThere("adapter_config.json")) && (await isThere("adapter_model.safetensors"));
  if (!isModel && !isAdapter) return { folder, commit, state: "partial" };
  for (const file of ASKED_FOR[isModel ? "model" : "adapter"]) {
    const known = (await isThere(file)) || (await isFile(path.join(absentFolder(cache, name.id, commit), file)));
    if (!known) return { folder, commit, state: "usable" };
  }
  return { folder, commit, state: "whole" };
}

async function hasWeights(folder: string): Promise<boolean> {
  if (await isFile(path.join(folder, WEIGHTS_NAME))) return true;
  const shards = await shardsOf(path.join(folder, INDEX_NAME));
  if (shards === null) return false;
  for (const shard of shards) if (!(await isFile(path.join(folder, shard)))) return false;
  return true;
}

/** The files that an index of shards names; null if it is not there or cannot be read. */
export async function shardsOf(index: string): Promise<string[] | null> {
  try {
    if ((await stat(index)).size > MAX_INDEX_BYTES) return null;
    const { weight_map } = JSON.parse(await readFile(index, "utf8"));
    const shards = [...new Set(Object.values(weight_map as Record<string, unknown>))];
    return shards.length > 0 && shards.every((shard) => typeof shard === "string") ? (shards as string[]) : null;
  } catch {
    return null;
  }
}

/** What the system says of a path; null if it says nothing. */
export const statOf = (place: string): Promise<Stats | null> => stat(place).catch(() => null);

const isFile = async (file: string): Promise<boolean> => (await statOf(file))?.isFile() ?? false;
