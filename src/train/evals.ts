// Evaluations during training: the mean loss, which was the best, and when no better one is to be waited for.
import type { Batch } from "../data/types.ts";
import { alone, type Communicator } from "../distributed/communicator.ts";
import { sharedOut } from "../distributed/exchange.ts";
import { meanLoss } from "../tasks/common/measures.ts";
import type { Measure, Start } from "../tasks/task.ts";
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

/** The batches of an evaluation, the numbers of their rows where these are known, and a way to make only some of them. */
export type EvalBatches = (Iterable<Batch> | AsyncIterable<Batch>) & {
  rows?: readonly (readonly number[])[];
  batch?(index: number): Promise<Batch>;
};

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

/** What `run` gives for each batch, in order; processes share them out. */
export const runEach =
  (run: (batch: Batch) => Promise<Record<string, Tensor>>, team = alone): Start["run"] =>
  (batches) =>
    sharedOut(team, batches.rows.length, "batch", async (i) => run(await batches.batch(i)));

/** Evaluates θ on `batches`, without dropout. Processes share them out, and each has the measures of all. */
export async function evaluateTheta(
  objective: Pick<Objective, "evaluate">,
  theta: Float32Array,
  batches: EvalBatches,
  measure: Measure<EvalMeasures> = lossMeasure(),
  team = alone,
): Promise<EvalMeasures> {
  const run = (batch: Batch) => objective.evaluate(batch, theta);
  if (team.size > 1 && batches.rows && batches.batch) await measureShared(team, batches.rows, batches.batch, run, measure);
  else await measureBatches(batches, [{ run, measure }]);
  return measure.score();
}

/** The same for the batches of `rows`, each made and run by one process; its results and what it was fed go to all. */
async function measureShared(
  team: Communicator,
  rows: readonly (readonly number[])[],
  made: (index: number) => Promise<Batch>,
  run: (batch: Batch) => Promise<Record<string, Tensor>>,
  measure: Measure<EvalMeasures>,
): Promise<void> {
  const given = (names: Record<string, Tensor>, mark: string) =>
    Object.fromEntries(Object.entries(names).map(([name, tensor]) => [`${mark}${name}`, tensor]));
  const compute = async (index: number) => {
    const batch = await made(index);
    const { targets, tokens, feeds } = batch;
    // What measures read of a batch is small: labels and tokens, not pixels.
    const small = Object.fromEntries(Object.entries(feeds).filter(([, { shape }]) => shape.length <= 2));
    const counts = { counts: { dtype: "float64" as const, shape: [2], data: Float64Array.of(targets, tokens) } };
    return { ...counts, ...given(small, "fed "), ...(targets > 0 ? given(await run(batch), "out ") : {}) };
  };
  const named = (tensors: Record<string, Tensor>, mark: string) =>
    Object.fromEntries(Object.entries(tensors).flatMap(([name, one]) => (name.startsWith(mark) ? [[name.slice(4), one]] : [])));
  let index = 0;
  for await (const sent of sharedOut(team, rows.length, "evaluation batch", compute)) {
    const [targets, tokens] = [...sent["counts"]!.data] as [number, number];
    const batch: Batch = { targets, tokens, feeds: named(sent, "fed ") };
    if (targets > 0) await measure.add({ batch, rows: rows[index]!, results: named(sent, "out ") });
    index++;
  }
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
