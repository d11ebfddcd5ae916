// lowrank merge: a checkpoint that needs no adapter.

import { print, printJson } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { mergeAdapter } from "../../node.ts";
import { bytes } from "../../units.ts";
import type { MergeAdapterOptions } from "./merge.ts";

/** Merges; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const options = values as unknown as MergeAdapterOptions;
  const terminal = process.stderr.isTTY === true;
  let total = 0;
  const onProgress = (progress: { tensor: string; done: number; total: number }) => {
    total = progress.total;
    if (json) printJson({ type: "tensor", ...progress });
    else if (terminal) process.stderr.write(`\r\x1b[K${bytes(progress.done)} of ${bytes(total)}`);
  };
  await mergeAdapter({ ...options, onProgress });
  if (terminal && !json) process.stderr.write("\r\x1b[K");
  if (json) printJson({ type: "done", output: options.output, bytes: total });
  else print(`merged into ${options.output}, ${bytes(total)} of weights`);
  return 0;
}
