// lowrank preview: what a run would train on, before anything is trained.
import { printJson } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";
import { preview, previewOptions } from "./preview.ts";
import { printPreview, trainedText } from "./print.ts";

export const command = defineCommand({
  summary: "show what a run would train on: examples with the trained tokens marked, lengths, losses, duplicates",
  options: previewOptions,
  examples: ["--base embedded --data train.jsonl --eval-split 0.1"],
  async run(options, { platform, json }) {
    const found = await preview(options, platform);
    if (!json) printPreview(found);
    else {
      const { shown, ...rest } = found;
      for (const example of shown)
        printJson({ type: "example", ...example, ...(example.parts && { trainedText: trainedText(example) }) });
      printJson({ type: "preview", ...rest });
    }
    return 0;
  },
});
