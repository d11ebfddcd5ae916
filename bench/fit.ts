// Straight lines through measurements, by least squares.
export interface Fit {
  slope: number;
  intercept: number;
  /** The largest deviation of a point from the line, as a share of the point. */
  deviation: number;
}

/** The line through points; null with fewer than two places on the x axis. */
export function fitted(points: readonly (readonly [x: number, y: number])[]): Fit | null {
  const mean = (pick: 0 | 1) => points.reduce((sum, point) => sum + point[pick], 0) / points.length;
  const [x0, y0] = [mean(0), mean(1)];
  const [xy, xx] = points.reduce(([a, b], [x, y]) => [a + (x - x0) * (y - y0), b + (x - x0) ** 2] as const, [0, 0] as const);
  if (xx === 0) return null;
  const slope = xy / xx;
  const intercept = y0 - slope * x0;
  const deviation = Math.max(...points.map(([x, y]) => Math.abs((intercept + slope * x) / y - 1)));
  return { slope, intercept, deviation };
}
