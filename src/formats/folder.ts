// A folder written whole or not at all: filled under a temporary name beside its place, then renamed to it.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";

/**
 * Lets `fill` write into a temporary folder, `.<name>.new`, and renames it to `target`; parent folders are made. A
 * `target` that holds anything is refused (`folder/not-empty`) before `fill` starts. What an interrupted run left under
 * the temporary name is removed first; when `fill` fails, nothing is left.
 */
export async function writeFolder(files: Files, target: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const taken = await files.exists(target);
  if (taken && (await files.list(target)).length > 0) {
    throw new LowrankError("folder/not-empty", "the output folder is not empty", {
      subject: target,
      expected: "a new or an empty folder",
      next: "Choose another output folder, or empty this one.",
    });
  }
  const place = taken ? await files.realPath(target) : target.replace(/\/+$/, "");
  const cut = place.lastIndexOf("/") + 1;
  const making = `${place.slice(0, cut)}.${place.slice(cut)}.new`;
  await files.remove(making);
  await files.makeFolder(making);
  try {
    await fill(making);
    await files.rename(making, place);
  } catch (error) {
    await files.remove(making);
    throw error;
  }
}
