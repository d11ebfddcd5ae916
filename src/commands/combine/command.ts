// lowrank combine: one adapter of several.
import { describeAdapter } from "../../adapters/describe.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { grouped } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { combineAdapters, combineOptions } from "./combine.ts";

export const command = defineCommand({
  summary: "make one adapter of several of the same base",
  options: combineOptions,
  argument: "adapters",
  examples: [
    "adapter-a adapter-b --weights 0.7,0.4 --output both",
    "adapter-a adapter-b --combination-type ties --density 0.5 --output both",
  ],
  async run(options, { platform, json }) {
    const combined = await combineAdapters(platform.files, options, platform);
    const { parameters, ranks, normDelta } = describeAdapter(combined);
    const { output } = options;
    if (json)
      printJson({
        type: "done",
        output,
        parameters,
        modules: combined.modules.length,
        ranks: Object.fromEntries(ranks),
        normDelta,
      });
    else {
      const rank = `rank ${[...new Set([ranks.keys().next().value, [...ranks.keys()].at(-1)])].join(" to ")}`;
      print(
        `combined ${options.adapters.length} adapters into ${output}: ${combined.modules.length} modules, ${rank}, ${grouped(parameters)} parameters`,
      );
    }
    return 0;
  },
});
