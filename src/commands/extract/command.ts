// lowrank extract: an adapter from the difference of two models.
import { table } from "../../terminal/columns.ts";
import { note, print, printJson, status } from "../../terminal/terminal.ts";
import { percent } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { extractIntoFolder, extractOptions } from "./extract.ts";

/** Weights that are named one by one. */
const MAX_NAMED = 5;

export const command = defineCommand({
  summary: "make an adapter of the difference of two models",
  options: extractOptions,
  examples: ["--base ./base --tuned ./tuned --rank 32 --output my-adapter"],
  async run(options, { platform, json }) {
    const onProgress = ({ module, done, total }: { module: string; done: number; total: number }) => {
      status(`${done} of ${total}: ${module}`);
    };
    const { modules, left } = await extractIntoFolder(platform.files, { ...options, onProgress }, platform);
    if (json) {
      printJson({ type: "done", output: options.output, modules, left });
      return 0;
    }
    const rows = modules.map(({ path, rank, change, energy }) => [path, String(rank), percent(change), percent(energy)]);
    print(...table([["module", "rank", "change", "energy kept"], ...rows]));
    const kept = modules.reduce((sum, { energy }) => sum + energy, 0) / modules.length;
    print(`extracted into ${options.output}: ${modules.length} modules, ${percent(kept)} of a module's change on average`);
    if (left.length > 0) {
      const names = left.slice(0, MAX_NAMED).map(({ name, change }) => `${name} (by ${percent(change)})`);
      const more = left.length > MAX_NAMED ? ` and ${left.length - MAX_NAMED} more` : "";
      note(`not in the adapter, though they differ: ${names.join(", ")}${more}`);
    }
    return 0;
  },
});
