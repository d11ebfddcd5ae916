// Correlations of two lists of numbers, as SciPy computes them: equal numbers share the mean of their ranks.

/** Pearson's correlation of two lists of numbers of the same length; null where either does not vary. */
export function pearson(a: readonly number[], b: readonly number[]): number | null {
  const centred = [a, b].map((values) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
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
