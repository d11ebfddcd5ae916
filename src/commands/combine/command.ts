// lowrank combine: one adapter of several.
import { layoutOf, lengthOfTheta, trainedBy } from "../../adapters/layout.ts";
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
    const { adapters, output } = options;
    const parameters = lengthOfTheta(layoutOf(trainedBy(combined)));
    const ranks = [...new Set(combined.modules.map(({ rank }) => rank))].sort((a, b) => a - b);
    const modules = combined.modules.length;
    if (json) printJson({ type: "done", output, parameters, modules, ranks });
    else {
      const rank = ranks.length === 1 ? `rank ${ranks[0]}` : `ranks ${ranks[0]} to ${ranks.at(-1)}`;
      print(
        `combined ${adapters.length} adapters into ${output}: ${modules} modules, ${rank}, ${grouped(parameters)} parameters`,
      );
    }
    return 0;
  },
});
