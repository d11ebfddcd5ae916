// lowrank report: a page about a run, or about several.
import { z } from "zod";
import { option } from "../../options.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";

export const command = defineCommand({
  summary: "write a page with the curves, samples and settings of a run, or of several beside each other",
  options: {
    folders: option(z.array(z.string()), { help: "the output folders of training" }),
    output: option(z.string().optional(), {
      value: "FILE",
      help: "the page (report.html in the folder of the run; in the current folder for several)",
    }),
    force: option(z.boolean().optional(), { help: "replace the file if it exists and is no report" }),
  },
  argument: "folders",
  examples: ["my-adapter", "first-adapter second-adapter --output comparison.html"],
  async run(options, { api, json }) {
    const file = await api.reportRuns(options);
    if (json) printJson({ report: file });
    else print(file);
    return 0;
  },
});
