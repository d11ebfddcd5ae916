// lowrank cache: what is kept of bases that were converted to fewer bits, as a table, and its removal.
import { z } from "zod";
import { option } from "../../options.ts";
import { partCache } from "../../platform/node/part-cache.ts";
import { type CacheEntry, cacheEntries, clearCache } from "../../runtime/part-cache.ts";
import { table } from "../../terminal/columns.ts";
import { note, print, printJson } from "../../terminal/terminal.ts";
import { bytes, oneLine } from "../../units.ts";
import { defineCommand } from "../command.ts";

export const command = defineCommand({
  summary: "list what is cached of quantised bases, or remove it",
  options: {
    clear: option(z.boolean().default(false), { help: "remove all of it; it is made again when it is needed" }),
  },
  examples: ["", "--clear"],
  async run({ clear }, { json }) {
    const cache = partCache();
    const entries = await cacheEntries(cache);
    if (clear) await clearCache(cache, entries);
    const freed = entries.reduce((sum, entry) => sum + entry.bytes, 0);
    if (json) printJson({ type: "done", folder: cache.folder, cleared: clear, entries });
    else if (cache.folder === null) note("The cache is switched off by LOWRANK_CACHE.");
    else if (entries.length === 0) note(`Nothing is cached in ${cache.folder}.`);
    else if (clear) note(`Removed ${bytes(freed)} from ${cache.folder}.`);
    else print(...list(entries));
    return 0;
  },
});

function list(entries: readonly CacheEntry[]): string[] {
  const rows = entries.map((entry) => [
    oneLine(entry.base),
    ...[formsOf(entry), bytes(entry.bytes), entry.made.slice(0, 16).replace("T", " ")],
    ...[entry.isCurrent ? "usable" : "the base has changed or is gone", entry.folder],
  ]);
  return table([["base", "weights", "size", "made", "state", "folder"], ...rows]);
}

const formsOf = ({ forms }: CacheEntry): string =>
  Object.entries(forms)
    .map(([form, count]) => `${count} ${form}`)
    .join(", ");
