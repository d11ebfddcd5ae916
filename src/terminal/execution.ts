// What commands say about how a run is executed.
import type { DeviceName } from "../runtime/devices.ts";
import type { Execution } from "../train/execution.ts";

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
