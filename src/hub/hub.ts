// A model on the hub to a folder: from the cache.
import { LowrankError } from "../errors.ts";
import { cachedSnapshot, cacheFolder, type HubName } from "./cache.ts";
import { foldersNear, type ResolveOptions } from "./reference.ts";

/** The snapshot of a model in the cache. Throws `hub/not-cached` if it is not there or not whole. */
export async function hubFolder(
  name: HubName,
  reference: string,
  { environment = process.env }: ResolveOptions,
): Promise<string> {
  const cache = cacheFolder(environment);
  const found = await cachedSnapshot(cache, name);
  if (found && found.state !== "partial") return found.folder;
  const near = await foldersNear(reference);
  throw new LowrankError("hub/not-cached", found ? "the cache holds only a part of the model" : "the model is not in the cache", {
    subject: reference,
    expected: `a snapshot in ${cache}`,
    got: "no folder with this path, and no such model in the cache",
    next: `Download it.${near.length > 0 ? ` If a folder was meant, those most like it are ${near.join(", ")}.` : ""}`,
  });
}
