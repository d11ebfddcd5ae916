// lowrank unmerge: a merged model back to its base.
import { stoppable, stoppedStatus } from "../../terminal/signals.ts";
import { print, printJson, status } from "../../terminal/terminal.ts";
import { bytes } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { unmergeAdapter, unmergeOptions } from "./unmerge.ts";

export const command = defineCommand({
  summary: "take an adapter out of a model that it was merged into",
  options: unmergeOptions,
  examples: ["--merged merged --adapter my-adapter --output base"],
  async run(options, { platform, json }) {
    let total = 0;
    const onProgress = (progress: { tensor: string; done: number; total: number }) => {
      total = progress.total;
      if (json) printJson({ type: "tensor", ...progress });
      else status(`${bytes(progress.done)} of ${bytes(total)}`);
    };
    return stoppable(
      () => "Stopping.",
      async (stopping) => {
        try {
          await unmergeAdapter(platform.files, { ...options, onProgress, signal: stopping.signal }, platform);
        } catch (error) {
          return stoppedStatus(error, stopping, json);
        }
        if (json) printJson({ type: "done", output: options.output, bytes: total });
        else print(`wrote the base into ${options.output}, ${bytes(total)} of weights`);
        return 0;
      },
    );
  },
});
