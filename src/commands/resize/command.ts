// lowrank resize: an adapter at a lower rank, and what that costs.
import { layoutOf, lengthOfTheta, trainedBy } from "../../adapters/layout.ts";
import { table } from "../../terminal/columns.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { grouped } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { type ResizedAdapter, resizeAdapter, resizeOptions } from "./resize.ts";

export const command = defineCommand({
  summary: "truncate an adapter to a lower rank, exactly",
  options: resizeOptions,
  argument: "adapter",
  examples: [
    "my-adapter --energy 0.99 --output smaller",
    "my-adapter --rank 4 --output smaller --base embedded --data test.jsonl",
  ],
  async run(options, { platform, json }) {
    const { adapter, modules, error, losses } = await resizeAdapter(platform.files, options, platform);
    const parameters = lengthOfTheta(layoutOf(trainedBy(adapter)));
    const { output } = options;
    if (json) printJson({ type: "done", output, parameters, error, losses, modules });
    else {
      const rows = modules.map(({ path, oldRank, rank, error }) => [path, String(oldRank), String(rank), percent(error)]);
      print(...table([["module", "rank before", "rank", "relative error"], ...rows]), "");
      print(`resized into ${output}: ${grouped(parameters)} parameters, relative error ${percent(error)}`);
      if (losses) print(lossesText(losses));
    }
    return 0;
  },
});

const lossesText = ({ base, before, after }: NonNullable<ResizedAdapter["losses"]>): string => {
  const of = base === null ? "" : ` (${base.toFixed(4)} without an adapter)`;
  return `loss ${before.toFixed(4)} before, ${after.toFixed(4)} after${of}: ${after < before ? "" : "+"}${(after - before).toFixed(4)}`;
};

const percent = (share: number): string => `${(100 * share).toPrecision(3)} %`;
