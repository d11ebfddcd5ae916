// lowrank merge: a checkpoint that needs no adapter.
import { z } from "zod";
import { MAX_SHARD_BYTES } from "../../adapters/merge.ts";
import { option } from "../../options.ts";
import { print, printJson, status } from "../../terminal/terminal.ts";
import { taskOption } from "../../train/options.ts";
import { bytes } from "../../units.ts";
import { anyBase, base, defineCommand } from "../command.ts";
import { mergeAdapter } from "./merge.ts";

export const command = defineCommand({
  summary: "write the base with an adapter merged into its weights",
  options: {
    base,
    adapter: option(z.string(), { value: "ADAPTER", model: true, help: "the adapter" }),
    anyBase,
    task: taskOption,
    output: option(z.string(), { value: "FOLDER", help: "a new or an empty folder" }),
    maxShardBytes: option(z.number().default(MAX_SHARD_BYTES), { value: "BYTES", help: "largest weight file" }),
  },
  examples: ["--base embedded --adapter my-adapter --output merged"],
  async run(options, { platform, json }) {
    let total = 0;
    const onProgress = (progress: { tensor: string; done: number; total: number }) => {
      total = progress.total;
      if (json) printJson({ type: "tensor", ...progress });
      else status(`${bytes(progress.done)} of ${bytes(total)}`);
    };
    await mergeAdapter(platform.files, { ...options, onProgress });
    if (json) printJson({ type: "done", output: options.output, bytes: total });
    else {
      status("");
      print(`merged into ${options.output}, ${bytes(total)} of weights`);
    }
    return 0;
  },
});
