// lowrank merge: a checkpoint that needs no adapter.
import { stoppable, stoppedStatus } from "../../terminal/signals.ts";
import { print, printJson, status } from "../../terminal/terminal.ts";
import { bytes } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { mergeAdapter, mergeOptions } from "./merge.ts";

export const command = defineCommand({
  summary: "write the base with an adapter merged into its weights",
  options: mergeOptions,
  examples: ["--base embedded --adapter my-adapter --output merged"],
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
          await mergeAdapter(platform.files, { ...options, onProgress, signal: stopping.signal }, platform);
        } catch (error) {
          return stoppedStatus(error, stopping, json);
        }
        if (json) printJson({ type: "done", output: options.output, bytes: total });
        else print(`merged into ${options.output}, ${bytes(total)} of weights`);
        return 0;
      },
    );
  },
});
