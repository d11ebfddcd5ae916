// lowrank convert: adapters and models in the formats of other programs.

import { tensorProgress } from "../../terminal/tensors.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";
import { convert, convertOptions } from "./convert.ts";

export const command = defineCommand({
  summary: "write an adapter or a model in the format of another program",
  options: convertOptions,
  argument: ["input", "output"],
  examples: [
    "my-adapter my-adapter.gguf --base embedded",
    "my-adapter my-adapter-mlx --to mlx --base HuggingFaceTB/SmolLM2-135M-Instruct",
    "merged-model merged.gguf --dtype q8_0",
    "merged-model web-model --to transformers.js --dtype f32,q4",
  ],
  async run(options, { platform, json }) {
    const { onProgress } = tensorProgress(json);
    const converted = await convert(platform.files, { ...options, onProgress }, platform);
    if (json) printJson({ type: "done", ...converted });
    else print(`converted ${options.input} (${converted.from}) to ${converted.outputs.join(" and ")} (${converted.to})`);
    return 0;
  },
});
