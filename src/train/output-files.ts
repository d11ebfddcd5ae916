// The files of a run's output folder, as the run writes them: under its lock, at every write.
import type { Files, Lock } from "../files.ts";

/** `files` whose writes fail with `file/lock-lost` as soon as another run may have the folder. */
export function underLock(files: Files, lock: Lock | undefined): Files {
  if (!lock) return files;
  const checked =
    <A extends unknown[]>(work: (...args: A) => Promise<void>) =>
    async (...args: A): Promise<void> => {
      await lock.check();
      await work(...args);
    };
  return {
    ...files,
    append: checked(files.append),
    makeFolder: checked(files.makeFolder),
    rename: checked(files.rename),
    remove: checked(files.remove),
    // Writing takes a while: again before what was written comes into its place.
    write: checked((path, chunks) => files.write(path, checkedAtEnd(chunks, lock))),
  };
}

async function* checkedAtEnd(chunks: Parameters<Files["write"]>[1], lock: Lock): AsyncGenerator<Uint8Array> {
  if (chunks instanceof Uint8Array) yield chunks;
  else yield* chunks;
  await lock.check();
}
