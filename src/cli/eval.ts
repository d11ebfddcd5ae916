// lowrank eval: the loss of a base over a data file, and of an adapter beside it.
import type { EvaluateOptions, Score } from "../jobs/evaluate.ts";
import { evaluate } from "../node.ts";
import { grouped } from "../units.ts";
import { print, printJson, table } from "./terminal.ts";
import type { Values } from "./values.ts";

/** Evaluates; returns the exit status. */
export async function run(options: Values, json: boolean): Promise<number> {
  const { data, base, adapter } = await evaluate(options as unknown as EvaluateOptions);
  if (json) {
    printJson({ type: "eval", data, base, adapter });
    return 0;
  }
  print(`${grouped(data.count)} examples, ${grouped(data.targets)} targets`);
  const row = (name: string, { loss, perplexity }: Score) => [name, loss.toFixed(4), perplexity.toFixed(2)];
  const rows = [["", "loss", "perplexity"], row("base", base)];
  print(table(adapter ? [...rows, row("with the adapter", adapter)] : rows));
  return 0;
}
