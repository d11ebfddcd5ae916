// lowrank download: a model from the hub into the cache, so that it is there when it is used.
import { z } from "zod";
import { option } from "../../options.ts";
import { resolveAndReport } from "../../terminal/download.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";

export const command = defineCommand({
  summary: "download a model from the hub, or the newest commit of its branch",
  options: { name: option(z.string(), { help: "owner/name[@revision] of a model or an adapter on the hub" }) },
  argument: "name",
  examples: ["HuggingFaceTB/SmolLM2-135M-Instruct"],
  async run({ name: reference }, { json }) {
    const { folder, name } = await resolveAndReport(reference, { refresh: true }, json);
    if (json) printJson({ type: "done", model: name, folder });
    else print(folder);
    return 0;
  },
});
