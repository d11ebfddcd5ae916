// What belongs to a checkpoint beside its weights: configs, tokenizer, chat template, image processor, its own code.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";

/** Bytes of a file that are in memory at once. */
export const BLOCK_BYTES = 8 * 1024 * 1024;

const TOKENIZER_FILES = [
  /^(added_tokens|special_tokens_map|tekken)\.json$/,
  /^(tokenizer|vocab|merges|spiece|sentencepiece|tiktoken|chat_template)[\w.-]*\.(json|txt|model|jinja)$/,
];
const SIDE_FILES = [...TOKENIZER_FILES, /^((generation_)?config|(video_)?(pre)?processor_config)\.json$/, /^\w+\.py$/];

/** What files say of a model's head beside config.json (models/heads/sentence-transformers.ts): read and written, not copied. */
const HEAD_FILES = [/^(modules|sentence_bert_config|config_sentence_transformers)\.json$/, /^\d+_\w+\/config\.json$/];

/** Whether a path inside a model's folder is that of such a file. */
export const isHeadFile = (path: string): boolean => HEAD_FILES.some((pattern) => pattern.test(path));

/** Whether a name is that of a file which belongs to a checkpoint beside its weights. */
export const isSideFile = (name: string): boolean => SIDE_FILES.some((pattern) => pattern.test(name));

/** Whether a name is that of a tokenizer's file. */
export const isTokenizerFile = (name: string): boolean => TOKENIZER_FILES.some((pattern) => pattern.test(name));

/**
 * Copies a checkpoint's files beside its weights, or the wanted ones, from one folder into another that exists. Fails with
 * `file/link-outside` for a link to what is not the checkpoint's.
 */
export async function copySideFiles(files: Files, from: string, to: string, isWanted = isSideFile): Promise<void> {
  const root = await files.realPath(from);
  for (const name of await files.list(from)) {
    if (!isWanted(name)) continue;
    const path = await files.realPath(`${from}/${name}`);
    if (!isOwn(root, path)) throw outside(`${from}/${name}`, path);
    await files.write(`${to}/${name}`, readInBlocks(files, path, 0, await files.size(path)));
  }
}

/**
 * Whether a file is the checkpoint's in the folder `root`, both as real paths: in it and not hidden (.git holds passwords), or,
 * where the folder is in a Hugging Face cache, one of the same model's blobs, which the cache's links lead to.
 */
function isOwn(root: string, path: string): boolean {
  if (path.startsWith(`${root}/`)) return !path.slice(root.length).includes("/.");
  const cached = /^(.*\/models--[^/]+)\/snapshots\/[^/]+(?:\/|$)/.exec(root)?.[1];
  return cached !== undefined && path.startsWith(`${cached}/blobs/`) && !path.slice(`${cached}/blobs/`.length).includes("/");
}

const outside = (subject: string, got: string): LowrankError =>
  new LowrankError("file/link-outside", "a symbolic link leads out of the model's folder, and is not copied", {
    subject,
    expected: "a file in the model's folder",
    got,
    next: "If the file belongs to the model, put a copy of it in the place of the link.",
  });

/** The subfolders of a model's folder that have files of its head, such as `1_Pooling`. */
export async function headFolders(files: Files, folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await files.list(folder)) {
    if (isHeadFile(`${name}/config.json`) && (await files.exists(`${folder}/${name}/config.json`))) found.push(name);
  }
  return found;
}

/** The bytes of a part of a file, some megabytes at a time; with `into`, of BLOCK_BYTES, each in the place of the one before. */
export async function* readInBlocks(
  files: Files,
  path: string,
  offset: number,
  length: number,
  into?: Uint8Array,
): AsyncGenerator<Uint8Array> {
  for (let done = 0; done < length; done += BLOCK_BYTES) {
    const size = Math.min(BLOCK_BYTES, length - done);
    yield await files.read(path, offset + done, size, into?.subarray(0, size));
  }
}
