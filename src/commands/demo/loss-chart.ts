// The loss of a run as a chart of characters.

const ROWS = 8;
const MAX_WIDTH = 72;
/** Columns for the numbers beside the chart. */
const MARGIN = 12;

/** `points` (a step and its loss) as text of at most `columns` columns; each column of the chart is the mean of its steps. */
export function lossChart(points: readonly (readonly [step: number, loss: number])[], columns: number): string {
  if (points.length < 2) return "";
  const width = Math.max(10, Math.min(MAX_WIDTH, columns - MARGIN));
  const means = Array.from({ length: width }, (_, column) => {
    const first = Math.floor((column * points.length) / width);
    const part = points.slice(first, Math.max(first + 1, Math.floor(((column + 1) * points.length) / width)));
    return part.reduce((sum, [, loss]) => sum + loss, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const tick = (high - low) / (ROWS - 1);
  const levels = means.map((mean) => (tick > 0 ? Math.round((high - mean) / tick) : 0));
  const lines = drawn(levels).map((line, row) => ({ label: (high - row * tick).toFixed(2), line }));
  const margin = Math.max(...lines.map(({ label }) => label.length));

  const [first, last] = [points[0]![0], points.at(-1)![0]];
  const steps = [0, 0.5, 1].map((share) => ({
    column: Math.round(share * (width - 1)),
    label: String(Math.round(first + share * (last - first))),
  }));
  const axis = Array.from({ length: width }, (_, column) => (steps.some((step) => step.column === column) ? "┬" : "─"));
  const labels = steps.reduce((text, { column, label }) => {
    return text.padEnd(margin + 1 + column - Math.floor(label.length / 2)) + label;
  }, "");
  return [
    `loss over ${last} steps`,
    "",
    ...lines.map(({ label, line }) => `${label.padStart(margin)}┤${line}`.trimEnd()),
    `${" ".repeat(margin)}└${axis.join("")}`,
    labels,
  ].join("\n");
}

/** A line through a level for each column (0 is the top row), as rows of characters. */
function drawn(levels: readonly number[]): string[] {
  const rows = Array.from({ length: Math.max(...levels) + 1 }, () => new Array<string>(levels.length).fill(" "));
  for (const [column, level] of levels.entries()) {
    const before = levels[Math.max(0, column - 1)]!;
    for (let row = Math.min(before, level); row < Math.max(before, level); row++) rows[row]![column] = "┃";
    rows[before]![column] = before === level ? "━" : before < level ? "┓" : "┛";
    if (before !== level) rows[level]![column] = before < level ? "┗" : "┏";
  }
  return rows.map((row) => row.join(""));
}
