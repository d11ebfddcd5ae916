// What tasks' measures share.
import type { Tensor } from "../../tensor.ts";
import type { Measure, RanBatch } from "../task.ts";

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

/** The mean loss, and what `measures` makes of all `labels` that were fed and of what `predict` makes of the `logits`. */
export function labelMeasure<M extends object>(
  predict: (logits: Tensor) => Iterable<number>,
  measures: (expected: readonly number[], predicted: readonly number[]) => M,
): Measure<M & { loss: number }> {
  const mean = meanLoss();
  const [expected, predicted]: [number[], number[]] = [[], []];
  return {
    add(ran) {
      mean.add(ran);
      for (const label of ran.batch.feeds["labels"]!.data) expected.push(Number(label));
      for (const one of predict(ran.results["logits"]!)) predicted.push(one);
    },
    score: () => ({ loss: mean.loss(), ...measures(expected, predicted) }),
  };
}
