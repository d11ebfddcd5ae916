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

/** What a run keeps of its evaluations, however many there were. A resumed run ends early at the same step by it. */
export interface EvalHistory {
  best: Eval | null;
  /** The loss that the next one is compared with; null before the first. */
  toBeat: number | null;
  /** Evaluations since the one that set it. */
  without: number;
}

export const noEvals: EvalHistory = { best: null, toBeat: null, without: 0 };

/** `history` with one more evaluation. One that is better by more than `minDelta` sets what the next ones have to beat. */
export function afterEval({ best, toBeat, without }: EvalHistory, { step, loss }: Eval, minDelta = 0): EvalHistory {
  const isBetter = toBeat === null || loss < toBeat - minDelta;
  return {
    best: bestOf([...(best ? [best] : []), { step, loss }]),
    toBeat: isBetter ? loss : toBeat,
    without: isBetter ? 0 : without + 1,
  };
}

/** Whether a run with these evaluations ends early. */
export const hasStalled = ({ without }: EvalHistory, { patience }: EarlyStop): boolean => without >= patience;
