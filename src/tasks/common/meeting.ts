// Losses in which rows meet, over the batches of several processes: the rows of the others are constants here, and each process has the
// gradient of its own. Follows Gao et al. 2021 ("Scaling deep contrastive learning batch size", GradCache).
import type { Value } from "../../graph/graph.ts";
import { add } from "../../graph/ops/elementwise.ts";
import { scatterAddRows } from "../../graph/ops/indexing.ts";
import { input } from "../../graph/ops/leaves.ts";

/** The inputs of what `amongAll` adds for the output `name`, and the symbol for how many rows there are in all. */
export const othersOf = (name: string): string => `${name}Others`;
export const placesOf = (name: string): string => `${name}Places`;
export const countOf = (name: string): string => `${name}All`;

/** Rows [own, width] at their places among those of all processes, [all, width], which are fed with zeros at these places. */
export function amongAll(own: Value, name: string): Value {
  const [rows, width] = own.shape;
  const others = input(othersOf(name), "float32", [countOf(name), width!]);
  return add(others, scatterAddRows(own, input(placesOf(name), "int32", [rows!]), countOf(name)));
}
