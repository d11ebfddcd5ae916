// Evaluations during training: the mean loss, which was the best, and when no better one is to be waited for.
import type { AnyBatch } from "../data/types.ts";
import { targetsOf } from "./batches.ts";
import type { Objective } from "./types.ts";

/** An evaluation after `step` steps: the mean loss over the targets, in nats a token. */
export interface Eval {
  step: number;
  loss: number;
}

/** Mean loss over all targets of `batches`, without dropout, in nats a token. */
export async function evaluate(
  objective: Pick<Objective, "loss">,
  theta: Float32Array,
  batches: Iterable<AnyBatch> | AsyncIterable<AnyBatch>,
): Promise<{ loss: number; perplexity: number }> {
  let sum = 0;
  let targets = 0;
  for await (const batch of batches) {
    if (targetsOf(batch) > 0) sum += await objective.loss(batch, theta);
    targets += targetsOf(batch);
  }
  const loss = sum / targets;
  return { loss, perplexity: Math.exp(loss) };
}

/** The evaluation with the lowest loss, the first of equal ones; null if there was none. */
export const bestOf = (evals: readonly Eval[]): Eval | null =>
  evals.reduce<Eval | null>((best, now) => (best && best.loss <= now.loss ? best : now), null);

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
