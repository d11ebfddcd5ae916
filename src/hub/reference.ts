// What names a model everywhere: a folder, `embedded`, or owner/name[@revision] on the hub (huggingface_hub's rules for names).
import { readdir } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { LowrankError, nearest } from "../errors.ts";
import { checkpointPlace } from "../formats/checkpoint.ts";
import { isGguf } from "../formats/gguf/checkpoint.ts";
import { nodeFiles } from "../platform/node/files.ts";
import { EMBEDDED, type HubOptions, type ModelFolder } from "../platform/platform.ts";
import { DEFAULT_REVISION, type HubName, statOf } from "./cache.ts";

const embeddedFolder = fileURLToPath(new URL("../../models/embedded", import.meta.url));

/** Names of a folder that are compared with a wrong one. */
const MAX_COMPARED = 1000;

const PART = /^[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?$/;
const REVISION = /^[A-Za-z0-9_][\w./-]{0,199}$/;

/** `owner/name[@revision]` taken apart; null if the text has another form. */
export function hubName(reference: string): HubName | null {
  const [, id = "", revision = DEFAULT_REVISION] = /^([^@]*)(?:@(.+))?$/.exec(reference) ?? [];
  const parts = id.split("/");
  const isName = parts.length === 2 && parts.every((part) => PART.test(part) && !/--|\.\./.test(part));
  return isName && REVISION.test(revision) && !revision.includes("..") ? { id, revision } : null;
}

/**
 * The folder or GGUF file that a reference stands for. An existing folder is used as it is, or the one GGUF file in it. Throws `reference/*` when the reference is
 * none of the three, `hub/*` when the hub does not give the model.
 */
export async function resolveModel(reference: string, options: HubOptions = {}): Promise<ModelFolder> {
  if (reference === EMBEDDED) return { folder: await embedded(), name: EMBEDDED };
  const kind = await kindOf(reference);
  if (kind === "folder") return { folder: await checkpointPlace(nodeFiles, reference), name: reference };
  if (kind === "file" && isGguf(reference)) return { folder: reference, name: reference };
  if (kind === "file") {
    const isTensors = /\.safetensors$/i.test(reference);
    throw new LowrankError("reference/file", "is a file, and a model is a folder or a GGUF file", {
      subject: reference,
      expected: "a checkpoint folder: config.json, tokenizer.json and *.safetensors; or *.gguf",
      next: `${isTensors ? `Another program's adapter is converted first: lowrank convert ${reference} FOLDER --base BASE. Of a model give` : "Give"} the folder: ${path.dirname(reference)}`,
    });
  }
  const name = hubName(reference);
  if (name === null) throw await unknown(reference);
  const { hubFolder } = await import("./hub.ts");
  try {
    return { folder: await hubFolder(name, options), name: name.id };
  } catch (error) {
    throw await withFoldersNear(error, reference);
  }
}

/** A path that was mistyped can have the form of a name on the hub. */
async function withFoldersNear(error: unknown, reference: string): Promise<unknown> {
  if (!(error instanceof LowrankError) || !/^hub\/(missing|offline|unreachable)$/.test(error.code)) return error;
  const near = (await kindOf(path.dirname(reference))) === "folder" ? await foldersNear(reference) : [];
  const folders = near.length > 0 ? `those most like it are ${near.join(", ")}` : "no folder has this path";
  const next = `${error.next} If a folder was meant: ${folders}.`;
  return new LowrankError(error.code, error.message, { ...error, cause: error.cause, next });
}

async function kindOf(place: string): Promise<"folder" | "file" | null> {
  const found = await statOf(place);
  return found && (found.isDirectory() ? "folder" : "file");
}

async function embedded(): Promise<string> {
  if ((await kindOf(embeddedFolder)) === "folder") return embeddedFolder;
  throw new LowrankError("reference/embedded", "this installation has no embedded model", {
    subject: EMBEDDED,
    expected: `the folder ${embeddedFolder}`,
    next: "Install lowrank again, or give a checkpoint folder or owner/name of a model on the hub.",
  });
}

async function unknown(reference: string): Promise<LowrankError> {
  const folders = await foldersNear(reference);
  const isWord = nearest(reference.slice(0, 64), [EMBEDDED, ...folders], 1)[0] === EMBEDDED;
  return new LowrankError("reference/unknown", "there is no such model", {
    subject: reference,
    expected: `a folder that exists, the word ${EMBEDDED}, or owner/name[@revision] of a model on the hub`,
    got: "no such folder, and not a model's name",
    next: isWord
      ? `Check the path, or give ${EMBEDDED} for the model that comes with the package.`
      : `Folders most like it: ${folders.join(", ")}.`,
  });
}

/** Folders that may have been meant: in the deepest folder of the path that exists, those whose names are most like the next part. */
async function foldersNear(reference: string): Promise<string[]> {
  let [parent, wanted] = [path.dirname(reference), path.basename(reference)];
  while ((await kindOf(parent)) !== "folder") {
    const above = path.dirname(parent);
    if (above === parent) return [];
    [parent, wanted] = [above, path.basename(parent)];
  }
  const entries = await readdir(parent, { withFileTypes: true }).catch(() => []);
  const folders = entries.filter((entry) => !entry.isFile() && !entry.name.startsWith(".")).slice(0, MAX_COMPARED);
  const names = folders.map(({ name }) => name);
  return nearest(wanted.slice(0, 256), names).map((name) => path.join(parent, name));
}
