// What belongs to a checkpoint beside its weights: configs, tokenizer, chat template, image processor, its own code.
import type { Files } from "../files.ts";

/** Bytes of a file that are in memory at once. */
const BLOCK_BYTES = 8 * 1024 * 1024;

const SIDE_FILES = [
  /^((generation_)?config|added_tokens|special_tokens_map|tekken|(video_)?(pre)?processor_config)\.json$/,
  /^(tokenizer|vocab|merges|spiece|sentencepiece|tiktoken|chat_template)[\w.-]*\.(json|txt|model|jinja)$/,
  /^\w+\.py$/,
];

/** Whether a name is that of a file which belongs to a checkpoint beside its weights. */
export const isSideFile = (name: string): boolean => SIDE_FILES.some((pattern) => pattern.test(name));

/** Copies a checkpoint's files beside its weights from one folder into another that exists. */
export async function copySideFiles(files: Files, from: string, to: string): Promise<void> {
  for (const name of await files.list(from)) {
    if (!isSideFile(name)) continue;
    const path = `${from}/${name}`;
    await files.write(`${to}/${name}`, readInBlocks(files, path, 0, await files.size(path)));
  }
}

/** The bytes of a part of a file, some megabytes at a time. */
export async function* readInBlocks(files: Files, path: string, offset: number, length: number): AsyncGenerator<Uint8Array> {
  for (let done = 0; done < length; done += BLOCK_BYTES) {
    yield await files.read(path, offset + done, Math.min(BLOCK_BYTES, length - done));
  }
}
