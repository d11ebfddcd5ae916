// The loss of a run as a chart of characters.
import { plot } from "simple-ascii-chart";

const HEIGHT = 8;
const MAX_WIDTH = 72;
/** Room that the numbers beside the chart take. */
const MARGIN = 12;

/** `points` (a step and its loss) as text of at most `columns` columns; each column of the chart is the mean of its steps. */
export function lossChart(points: readonly (readonly [step: number, loss: number])[], columns: number): string {
  if (points.length < 2) return "";
  const width = Math.max(10, Math.min(MAX_WIDTH, columns - MARGIN));
  const buckets = Math.min(width, points.length);
  const means = Array.from({ length: buckets }, (_, i): [number, number] => {
    const part = points.slice(Math.floor((i * points.length) / buckets), Math.floor(((i + 1) * points.length) / buckets));
    return [part[0]![0], part.reduce((sum, [, loss]) => sum + loss, 0) / part.length];
  });
  const [first, last] = [points[0]![0], points.at(-1)![0]];
  const chart = plot(means, {
    width,
    height: HEIGHT,
    title: `loss over ${last} steps`,
    customXAxisTicks: [first, Math.round((first + last) / 2)],
    formatter: (value, { axis }) => (axis === "y" ? value.toFixed(2) : value),
  });
  return chart
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
}
