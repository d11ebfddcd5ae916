// Ranks of a new adapter from another one's spectrum: each module gets the least rank that holds 99 % of its update's energy there.
import { describeAdapter } from "../adapters/describe.ts";
import { patternsOf } from "../adapters/match.ts";
import { readAdapter } from "../adapters/peft-files.ts";
import { withFactors } from "../adapters/resize.ts";
import type { Files } from "../files.ts";
import type { Platform } from "../platform/platform.ts";
import type { RunOptions } from "./options.ts";

/**
 * The options with the ranks and the targets that `ranksFrom` suggests in its place, or as they are without it. A module's alpha / rank is
 * that of the other adapter; one that was not updated gets rank 1.
 */
export async function withSuggestedRanks(
  files: Files,
  { ranksFrom, ...options }: RunOptions,
  limits?: Platform["adapterLimits"],
): Promise<RunOptions> {
  if (ranksFrom === undefined) return options;
  const adapter = await readAdapter(files, ranksFrom, limits);
  const { targetModules, excludeModules, layersToTransform } = adapter.config;
  const suggested = describeAdapter(adapter).modules.map((module) => {
    const rank = Math.max(1, module.spectrum?.rank99 ?? module.rank);
    return { module, rank, alpha: (rank * module.alpha) / module.rank };
  });
  const { rank } = withFactors(adapter.config, suggested).config;
  const { alpha } = suggested.find((one) => one.rank === rank)!;
  return {
    ...options,
    ...{ rank, alpha },
    ...patternsOf(
      suggested.map(({ module, ...own }) => ({ ...own, path: module.path })),
      { rank, alpha },
    ),
    ...{ targetModules, excludeModules },
    layersToTransform: layersToTransform === null ? null : [layersToTransform].flat(),
  };
}
