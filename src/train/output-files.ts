// The files of a run's output folder, as the run writes them: under its lock, and where their paths say.
import { LowrankError } from "../errors.ts";
import type { Files, Lock } from "../files.ts";

/**
 * `files` for what a run writes into `folder`, which exists. Writes fail with `file/lock-lost` as soon as another run may have the
 * folder, and with `file/link` where a folder in it leads out of it.
 */
export async function outputFiles(files: Files, folder: string, lock?: Lock): Promise<Files> {
  const root = await files.realPath(folder);
  const check = async (...paths: string[]): Promise<void> => {
    await lock?.check();
    for (const parent of paths.map((path) => path.slice(0, path.lastIndexOf("/")))) {
      if (!parent.startsWith(`${folder}/`)) continue;
      const real = await files.realPath(parent);
      if (real !== root + parent.slice(folder.length)) throw linked(parent, real);
    }
  };
  // Writing takes a while: once more before what was written comes into its place.
  async function* checkedAtEnd(file: string, chunks: Parameters<Files["write"]>[1]): AsyncGenerator<Uint8Array> {
    if (chunks instanceof Uint8Array) yield chunks;
    else yield* chunks;
    await check(file);
  }
  return {
    ...files,
    write: async (file, chunks) => check(file).then(() => files.write(file, checkedAtEnd(file, chunks))),
    append: async (file, bytes) => check(file).then(() => files.append(file, bytes)),
    makeFolder: async (path, mustBeNew) => check(path).then(() => files.makeFolder(path, mustBeNew)),
    rename: async (from, to) => check(from, to).then(() => files.rename(from, to)),
    remove: async (path) => check(path).then(() => files.remove(path)),
  };
}

const linked = (subject: string, got: string): LowrankError =>
  new LowrankError("file/link", "a symbolic link leads to another place than what is written", {
    subject,
    expected: "a folder of the output folder",
    got,
    next: "Remove the link, or choose another output folder.",
  });
