// How long examples are, in a line and as bars.

import { table } from "../../terminal/terminal.ts";
import { grouped } from "../../units.ts";
import type { Lengths } from "./dataset-stats.ts";

export const lengthsText = ({ shortest, longest, median, most }: Lengths): string =>
  `lengths: ${shortest} to ${grouped(longest)} tokens, half up to ${median}, 95 % up to ${most}`;

const BAR_CELLS = 40;

export function bars(histogram: Lengths["histogram"]): string {
  const most = Math.max(1, ...histogram.map(({ count }) => count));
  const rows = histogram.map(({ from, to, count }) => {
    const cells = count === 0 ? 0 : Math.max(1, Math.round((BAR_CELLS * count) / most));
    return [from === to ? `  ${from}` : `  ${from}–${to}`, grouped(count), "█".repeat(cells).padEnd(BAR_CELLS)];
  });
  return rows.length === 0 ? "" : table(rows);
}
