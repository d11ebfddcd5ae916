// lowrank preview: what a run would train on, before anything is trained.

import { printJson } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { preview } from "../../node.ts";
import type { PreviewOptions } from "./preview.ts";
import { printPreview, trainedText } from "./print.ts";

/** Shows the data; returns the exit status. */
export async function run(options: Values, json: boolean): Promise<number> {
  const found = await preview(options as unknown as PreviewOptions);
  if (!json) printPreview(found);
  else {
    const { shown, ...rest } = found;
    for (const example of shown)
      printJson({ type: "example", ...example, ...(example.parts && { trainedText: trainedText(example) }) });
    printJson({ type: "preview", ...rest });
  }
  return 0;
}
