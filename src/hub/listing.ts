// Which files of a model are downloaded: its listing on the hub, checked entry by entry, and of it what is used here.
import { INDEX_NAME, refuseWithoutWeights, WEIGHTS_NAME } from "../formats/checkpoint.ts";
import { isHeadFile, isSideFile } from "../formats/side-files.ts";
import { COMMIT } from "./cache.ts";
import { getJson, type Hub } from "./client.ts";
import { hubError, malformed } from "./failures.ts";

/** Files of one model. The hub advises at most 100,000. */
const MAX_ENTRIES = 100_000;
/** Pages of a listing, of a thousand entries each. */
const MAX_PAGES = 200;
const MAX_PATH_CHARS = 1024;
const MAX_PATH_DEPTH = 32;
/** Largest file beside the weights. */
const MAX_SIDE_BYTES = 128 * 1024 * 1024;

export interface HubFile {
  path: string;
  /** In bytes. */
  size: number;
  /** Name in blobs/: the SHA-256 of a large file, git's SHA-1 of another. */
  blob: string;
}

export interface Listing {
  commit: string;
  /** By path; folders are left out. */
  files: Map<string, HubFile>;
}

/** What the hub has of a model now. An entry whose path leads out of the folder is refused, and the model with it. */
export async function listModel(hub: Hub): Promise<Listing> {
  const { name } = hub;
  const model = `${hub.endpoint}/api/models/${name.id}`;
  const info = await getJson(hub, `${model}/revision/${encodeURIComponent(name.revision)}?expand=sha`);
  const commit = (info.value as { sha?: unknown } | null)?.sha;
  if (typeof commit !== "string" || !COMMIT.test(commit)) throw malformed(hub, `the commit ${JSON.stringify(commit)}`);
  const files = new Map<string, HubFile>();
  let count = 0;
  let url: string | null = `${model}/tree/${commit}?recursive=true`;
  for (let page = 0; url !== null; page++) {
    if (page === MAX_PAGES) throw malformed(hub, `a listing of more than ${MAX_PAGES} pages`);
    const { value, next } = await getJson(hub, url);
    if (!Array.isArray(value)) throw malformed(hub, "a listing that is no list");
    count += value.length;
    if (count > MAX_ENTRIES) throw malformed(hub, `a listing of more than ${MAX_ENTRIES} entries`);
    for (const entry of value) {
      const file = checkedEntry(entry, hub);
      if (file) files.set(file.path, file);
    }
    url = next;
  }
  return { commit, files };
}

function checkedEntry(entry: unknown, hub: Hub): HubFile | null {
  const { type, path, size, oid, lfs } = (entry ?? {}) as Record<string, unknown>;
  if (typeof path !== "string") throw malformed(hub, `an entry without a path: ${JSON.stringify(entry)?.slice(0, 200)}`);
  const reason = unsafe(path);
  if (reason !== null) {
    throw hubError("path", `the model has a file whose path ${reason}`, hub, {
      expected: "paths inside the model's folder",
      got: JSON.stringify(path.slice(0, 200)),
      next: "Do not use this model; nothing was downloaded. Report it to its owner or the hub.",
      exitCode: 2,
    });
  }
  if (type !== "file") return null;
  const large = (lfs ?? null) as { oid?: unknown; size?: unknown } | null;
  const blob = large ? large.oid : oid;
  const length = large ? large.size : size;
  const isHash = typeof blob === "string" && (large ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(blob);
  if (!isHash || !Number.isSafeInteger(length) || (length as number) < 0) {
    throw malformed(hub, `no hash or size for ${JSON.stringify(path)}`);
  }
  return { path, size: length as number, blob: blob as string };
}

/** Why a path is not taken; null if it stays inside its folder on every system. */
function unsafe(path: string): string | null {
  const parts = path.split("/");
  if (parts.includes("..")) return "leads out of the folder";
  if (path.startsWith("/") || parts.some((part) => /^[A-Za-z]:/.test(part))) return "starts at the root of a disk";
  if (path.includes("\\")) return "has a backslash in it";
  if (path.includes("\0")) return "has a NUL in it";
  if (parts.length > MAX_PATH_DEPTH) return `is more than ${MAX_PATH_DEPTH} folders deep`;
  if (path.length > MAX_PATH_CHARS) return "is too long";
  return parts.includes("") || parts.includes(".") ? "has an empty part" : null;
}

/** Files that are downloaded: beside the weights at once; which weights they are says `weightsOf`. */
export function sideFilesOf({ files }: Listing, hub: Hub): HubFile[] {
  const isWanted = (path: string) =>
    (isSideFile(path) && !path.endsWith(".py")) || isHeadFile(path) || /^(adapter_config|run)\.json$/.test(path);
  const wanted = [...files.values()].filter(({ path }) => isWanted(path) || path === INDEX_NAME);
  for (const { path, size } of wanted) {
    if (size <= MAX_SIDE_BYTES) continue;
    throw hubError("too-large", "a file beside the weights is too large", hub, {
      subject: `${hub.name.id}/${path}`,
      expected: `at most ${MAX_SIDE_BYTES} bytes`,
      got: `${size} bytes`,
      next: "Use another model.",
      exitCode: 2,
    });
  }
  return wanted;
}

const ADAPTER_WEIGHTS = "adapter_model.safetensors";

/** Fails if a model has no weights that can be read, before anything of it is downloaded. */
export function checkWeights({ files }: Listing, { name }: Hub): void {
  if ([WEIGHTS_NAME, INDEX_NAME, ADAPTER_WEIGHTS].some((file) => files.has(file))) return;
  refuseWithoutWeights(name.id, new Set(files.keys()));
}

/** The files with the weights; `shards` are what the index names, where the model has one and no single file. */
export function weightsOf({ files }: Listing, shards: readonly string[], hub: Hub): HubFile[] {
  const names = files.has(WEIGHTS_NAME) ? [WEIGHTS_NAME] : shards;
  return [...names, ...(files.has(ADAPTER_WEIGHTS) ? [ADAPTER_WEIGHTS] : [])].map((name) => {
    const file = files.get(name);
    if (file && name.endsWith(".safetensors") && !name.includes("/")) return file;
    throw hubError("missing-shard", `${INDEX_NAME} names a file that is not among the model's weights`, hub, {
      got: JSON.stringify(name.slice(0, 200)),
      next: "The model on the hub is incomplete; report it to its owner, or use another revision.",
      exitCode: 2,
    });
  });
}
