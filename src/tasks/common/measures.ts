// What tasks' measures share.
import type { RanBatch } from "../task.ts";

/** The mean of the losses over all targets. */
export function meanLoss() {
  let [sum, targets] = [0, 0];
  return {
    add({ batch, results }: Pick<RanBatch, "batch" | "results">): void {
      sum += Number(results["loss"]!.data[0]);
      targets += batch.targets;
    },
    loss: () => sum / targets,
  };
}
