// lowrank unmerge: a merged model back to its base.
import { stoppable, stoppedStatus } from "../../terminal/signals.ts";
import { tensorProgress } from "../../terminal/tensors.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { bytes } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { unmergeAdapter, unmergeOptions } from "./unmerge.ts";

export const command = defineCommand({
  summary: "take an adapter out of a model that it was merged into",
  options: unmergeOptions,
  examples: ["--merged merged --adapter my-adapter --output base"],
  async run(options, { platform, json }) {
    const { onProgress, total } = tensorProgress(json);
    return stoppable(
      () => "Stopping.",
      async (stopping) => {
        try {
          await unmergeAdapter(platform.files, { ...options, onProgress, signal: stopping.signal }, platform);
        } catch (error) {
          return stoppedStatus(error, stopping, json);
        }
        if (json) printJson({ type: "done", output: options.output, bytes: total() });
        else print(`wrote the base into ${options.output}, ${bytes(total())} of weights`);
        return 0;
      },
    );
  },
});
