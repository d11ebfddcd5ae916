// The curves of a report: what is measured at each step, thinned to what a chart can show, and smoothed.

/** A curve: x rises, y as long as x. */
export interface Curve {
  x: number[];
  y: number[];
}

/** Points of one curve at most. */
export const MAX_POINTS = 2000;
/** The smoothed loss averages over about this share of the steps, and over at least a few. */
const SMOOTH_SHARE = 1 / 40;
const MIN_SMOOTH_STEPS = 5;

/** The points of `rows` where `of` gives a finite number. */
export function curve<T extends { step: number }>(rows: readonly T[], of: (row: T) => number | null): Curve {
  const found = rows.map((row) => [row.step, of(row)] as const).filter(([, value]) => value !== null && Number.isFinite(value));
  return { x: found.map(([step]) => step), y: found.map(([, value]) => value!) };
}

/** At most `MAX_POINTS` points: the first, the last, and of each stretch between them the lowest and the highest. */
export function thinned({ x, y }: Curve): Curve {
  if (x.length <= MAX_POINTS) return { x, y };
  const last = x.length - 1;
  const kept = [0];
  const stretches = (MAX_POINTS - 2) / 2;
  for (let i = 0; i < stretches; i++) {
    const from = 1 + Math.floor((i * (last - 1)) / stretches);
    const to = 1 + Math.floor(((i + 1) * (last - 1)) / stretches);
    let [low, high] = [from, from];
    for (let at = from; at < to; at++) {
      if (y[at]! < y[low]!) low = at;
      if (y[at]! > y[high]!) high = at;
    }
    kept.push(...new Set([Math.min(low, high), Math.max(low, high)]));
  }
  kept.push(last);
  return { x: kept.map((at) => x[at]!), y: kept.map((at) => y[at]!) };
}

/** Steps from one point to the next: more than one where the log of a long run is read in parts. */
export const spacing = ({ x }: Curve): number => (x.length > 1 ? (x.at(-1)! - x[0]!) / (x.length - 1) : 1);

/** Points that the smoothed curve of `count` points averages over. */
export const smoothSteps = (count: number): number => Math.max(MIN_SMOOTH_STEPS, Math.round(count * SMOOTH_SHARE));

/** Exponential moving average over about `steps` points, without the pull of a first value (as Adam corrects its moments). */
export function smoothed({ x, y }: Curve, steps = smoothSteps(x.length)): Curve {
  const keep = 1 - 1 / steps;
  let sum = 0;
  let weight = 0;
  const out = y.map((value) => {
    sum = keep * sum + value;
    weight = keep * weight + 1;
    return sum / weight;
  });
  return { x, y: out };
}

/** A number with the digits that a chart shows. */
export const rounded = (value: number): number => Number(value.toPrecision(6));
