// The progress of a work that writes tensors: a line that is rewritten, or an event each.
import { bytes } from "../units.ts";
import { printJson, status } from "./terminal.ts";

/** Reports each tensor that is written; `total` is that of all, in bytes. */
export function tensorProgress(json: boolean) {
  let total = 0;
  return {
    onProgress(progress: { tensor: string; done: number; total: number }): void {
      total = progress.total;
      if (json) printJson({ type: "tensor", ...progress });
      else status(`${bytes(progress.done)} of ${bytes(total)}`);
    },
    total: () => total,
  };
}
