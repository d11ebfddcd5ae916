// Evaluations during training: the mean loss, which was the best, and when no better one is to be waited for.
import type { AnyBatch } from "../data/types.ts";
import { targetsOf } from "./batches.ts";
import type { Objective } from "./types.ts";

/** An evaluation after `step` steps: the mean loss over the targets, in nats a token. */
export interface Eval {
  step: number;
  loss: number;
}

/** What an evaluation measures. */
export interface EvalMeasures {
  /** Mean over all targets, in nats. */
  loss: number;
  /** Of a language model: e to the power of the loss. */
  perplexity?: number;
  /** Of a classifier: the share of rows whose class has the highest logit. */
  accuracy?: number;
}

/** Evaluates θ on `batches`, without dropout. */
export async function evaluate(
  objective: Pick<Objective, "evaluate">,
  theta: Float32Array,
  batches: Iterable<AnyBatch> | AsyncIterable<AnyBatch>,
): Promise<EvalMeasures> {
  let [sum, targets, right] = [0, 0, 0];
  let isClassifier = false;
  let isLanguage = true;
  for await (const batch of batches) {
    if (targetsOf(batch) === 0) continue;
    const { loss, correct } = await objective.evaluate(batch, theta);
    sum += loss;
    targets += targetsOf(batch);
    right += correct ?? 0;
    isClassifier = correct !== undefined;
    isLanguage = !("feeds" in batch);
  }
  const loss = sum / targets;
  return { loss, ...(isLanguage && { perplexity: Math.exp(loss) }), ...(isClassifier && { accuracy: right / targets }) };
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
