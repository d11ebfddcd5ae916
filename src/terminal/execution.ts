// What commands say about how a run is executed.
import type { DeviceName } from "../runtime/devices.ts";
import type { Execution } from "../train/execution.ts";
import { bytes, duration } from "../units.ts";

const what: Record<Execution["memory"], string> = {
  keep: "all of the forward pass kept",
  products: "products kept, the rest computed again",
  recompute: "each layer computed again",
  stream: "each layer computed again, the base read from disk at every step",
};

/** ", with the base in float32, all of the forward pass kept (--memory keep), on webgpu"; no more than is not the usual. */
export function executionText({
  execution,
  device,
}: {
  execution: Pick<Execution, "memory" | "baseDtype"> | null;
  device: DeviceName;
}) {
  const how = execution
    ? `, with the base in ${execution.baseDtype}, ${what[execution.memory]} (--memory ${execution.memory})`
    : "";
  return device === "cpu" ? how : `${how}, on ${device}`;
}

/** What the cache of converted weights takes on disk, if anything: a line, or none. */
export const cacheLines = (execution: Pick<Execution, "cache"> | null): string[] =>
  execution?.cache ? [`disk: ${bytes(execution.cache)} of converted weights in the cache (lowrank cache)`] : [];

/** How far weights are converted. */
export function convertingLine({ done, total, seconds }: { done: number; total: number; seconds: number }): string {
  const left = done === 0 ? "" : `, ${duration((seconds * (total - done)) / done)} left`;
  return `converting the base, once: ${Math.floor((100 * done) / total)}% of ${bytes(total)}, ${bytes(done / seconds)}/s${left}`;
}
