// What tasks' measures share.
import { LowrankError } from "../../errors.ts";
import type { Tensor } from "../../tensor.ts";
import { figureText } from "../../units.ts";
import type { Measure, RanBatch, ScoreTable } from "../task.ts";

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

/** Columns with figures of a score, by their titles. */
export const figureColumns = <S extends object>(
  keys: Record<string, string & { [K in keyof S]: S[K] extends number ? K : never }[keyof S]>,
): ScoreTable<S>["columns"] =>
  Object.entries(keys).map(([title, key]) => [title, (score: S) => figureText(key, score[key as keyof S] as number)]);

/** The refusal of outputs that are no numbers: `what` they are ("scores are"), and whose. */
export const notFinite = (what: string, got: string, of?: string): LowrankError =>
  new LowrankError("predict/not-finite", `the model's ${what} not finite`, {
    subject: of,
    expected: "finite numbers",
    got,
    next: "The weights of the model or of the adapter are damaged, or training diverged; use an earlier checkpoint.",
    exitCode: 1,
  });

export const notFiniteScores = (logits: Float32Array): LowrankError => notFinite("scores are", logits.subarray(0, 8).join(", "));

/** Rows of a table: the base, and below it the adapter where there is one. */
export const comparedRows = <S>({ base, adapter }: { base: S | null; adapter: S | null }, cells: (score: S) => string[]) => [
  ["base", ...cells(base!)],
  ...(adapter ? [["with the adapter", ...cells(adapter)]] : []),
];

/** A share of nothing is 0. */
export const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);

/** The mean of some numbers; of none 0. */
export const meanOf = (values: readonly number[]): number =>
  share(
    values.reduce((sum, value) => sum + value, 0),
    values.length,
  );

/** Pearson's correlation of two lists of numbers of the same length, as SciPy computes it; null where either does not vary. */
export function pearson(a: readonly number[], b: readonly number[]): number | null {
  const centred = [a, b].map((values) => {
    const mean = meanOf(values);
    return values.map((value) => value - mean);
  }) as [number[], number[]];
  const dot = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
  const scale = Math.sqrt(dot(centred[0], centred[0]) * dot(centred[1], centred[1]));
  return scale > 0 ? dot(...centred) / scale : null;
}

/** Spearman's: Pearson's of the ranks. */
export const spearman = (a: readonly number[], b: readonly number[]): number | null => pearson(ranks(a), ranks(b));

/** The rank of each number, from 1; equal ones share the mean of theirs. */
function ranks(values: readonly number[]): number[] {
  const order = values.map((_, i) => i).sort((a, b) => values[a]! - values[b]!);
  const found = new Array<number>(values.length);
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++;
    for (const i of order.slice(start, end)) found[i] = (start + 1 + end) / 2;
    start = end;
  }
  return found;
}
