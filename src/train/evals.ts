// Evaluations during training: the mean loss, which was the best, and when no better one is to be waited for.
import type { Batch } from "../data/types.ts";
import { meanLoss } from "../tasks/common/measures.ts";
import type { Measure } from "../tasks/task.ts";
import type { Tensor } from "../tensor.ts";
import type { Objective } from "./objective.ts";

/** An evaluation after `step` steps: the mean loss over the targets, in nats a token. */
export interface Eval {
  step: number;
  loss: number;
}

/** What an evaluation measures: the mean loss over all targets, in nats, and the figures of the task. */
export interface EvalMeasures {
  loss: number;
  [figure: string]: number;
}

export function lossMeasure(): Measure<EvalMeasures> {
  const { add, loss } = meanLoss();
  return { add, score: () => ({ loss: loss() }) };
}

/** The batches of an evaluation, and the numbers of their rows where these are known. */
export type EvalBatches = (Iterable<Batch> | AsyncIterable<Batch>) & { rows?: readonly (readonly number[])[] };

/** Gives each measure every batch that has targets, with what `run` makes of it. */
export async function measureBatches(
  batches: EvalBatches,
  sides: readonly { run(batch: Batch): Promise<Record<string, Tensor>>; measure: Pick<Measure<unknown>, "add"> }[],
): Promise<void> {
  let number = 0;
  for await (const batch of batches) {
    const rows = batches.rows?.[number++] ?? [];
    if (batch.targets === 0) continue;
    for (const { run, measure } of sides) await measure.add({ batch, rows, results: await run(batch) });
  }
}

/** Evaluates θ on `batches`, without dropout. */
export async function evaluateTheta(
  objective: Pick<Objective, "evaluate">,
  theta: Float32Array,
  batches: EvalBatches,
  measure: Measure<EvalMeasures> = lossMeasure(),
): Promise<EvalMeasures> {
  await measureBatches(batches, [{ run: (batch) => objective.evaluate(batch, theta), measure }]);
  return measure.score();
}

/** The evaluation with the lowest loss, the first of equal ones; null if there was none. */
export const bestOf = <E extends Eval>(evals: readonly E[]): E | null =>
  evals.reduce<E | null>((best, now) => (best && best.loss <= now.loss ? best : now), null);

/** When a run ends before its last step: after `patience` evaluations without one that is better by more than `minDelta`. */
export interface EarlyStop {
  patience: number;
  minDelta: number;
}

/** Whether a run with these evaluations has ended early. It depends on nothing else, so that a resumed run ends at the same step. */
export function hasStalled(evals: readonly Eval[], { patience, minDelta }: EarlyStop): boolean {
  let toBeat = Number.POSITIVE_INFINITY;
  let without = 0;
  for (const { loss } of evals) {
    const isBetter = loss < toBeat - minDelta;
    if (isBetter) toBeat = loss;
    without = isBetter ? 0 : without + 1;
    if (without >= patience) return true;
  }
  return false;
}
