// The folder of an adapter that was made of others: whole or not at all, with checksums, and with their head's files.
import type { Files, LockFolder } from "../files.ts";
import { type MakeDigest, summing } from "../formats/checksums.ts";
import { writeFolder } from "../formats/folder.ts";
import { copySideFiles, headFolders, isHeadFile, isTokenizerFile } from "../formats/side-files.ts";
import { type Adapter, writeAdapter } from "./peft-files.ts";

/** What the host has for an adapter's folder. */
export interface AdapterHost {
  digest?: MakeDigest;
  lock?: LockFolder;
}

/** Writes `adapter` to `output`, a new or an empty folder, as `fillAdapterFolder` does. */
export async function writeAdapterFolder(
  files: Files,
  output: string,
  adapter: Adapter,
  headFrom: string,
  { digest, lock }: AdapterHost = {},
): Promise<void> {
  const fill = (to: Files, folder: string) => fillAdapterFolder(to, folder, adapter, headFrom);
  await writeFilledFolder(files, output, fill, { digest, lock });
}

/**
 * Writes `adapter` into `folder`, which exists. If it has a head that files describe, those, and the tokenizer's, come from the folder
 * `headFrom` of the adapter that it was made of.
 */
export async function fillAdapterFolder(files: Files, folder: string, adapter: Adapter, headFrom: string): Promise<void> {
  await writeAdapter(files, folder, adapter);
  if (adapter.head) await copyHead(files, headFrom, folder);
}

/** Writes what `fill` puts into a folder, with checksums, to `output`, a new or an empty folder. */
export async function writeFilledFolder(
  files: Files,
  output: string,
  fill: (files: Files, folder: string) => Promise<void>,
  { digest, lock }: AdapterHost = {},
): Promise<void> {
  const { files: to, writeSums } = summing(files, digest);
  const all = async (folder: string) => {
    await fill(to, folder);
    await writeSums(folder);
  };
  await writeFolder(to, output, all, { lock });
}

async function copyHead(files: Files, from: string, to: string): Promise<void> {
  await copySideFiles(files, from, to, (name) => isHeadFile(name) || isTokenizerFile(name));
  for (const name of await headFolders(files, from)) {
    await files.makeFolder(`${to}/${name}`);
    await copySideFiles(files, `${from}/${name}`, `${to}/${name}`, (file) => isHeadFile(`${name}/${file}`));
  }
}
