// lowrank preview: what a run would train on, before anything is trained.
import { z } from "zod";
import { option, pick, reworded } from "../../options.ts";
import { printJson } from "../../terminal/terminal.ts";
import { readingOptions, runOptions } from "../../train/options.ts";
import { defineCommand } from "../command.ts";
import { preview } from "./preview.ts";
import { printPreview, trainedText } from "./print.ts";

export const command = defineCommand({
  summary: "show what a run would train on: examples with the trained tokens marked, lengths, losses, duplicates",
  options: {
    ...pick(runOptions, "base", "data", "task", "evalData", "evalSplit"),
    seed: reworded(runOptions.seed, { help: "the run's, which chooses the records of --eval-split" }),
    ...readingOptions,
    examples: option(z.number().default(3), { help: "how many examples are shown" }),
    ids: option(z.boolean().optional(), { help: "with --json, the examples' token ids too" }),
  },
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
