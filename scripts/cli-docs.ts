// npm run docs:cli: docs/cli.md from the objects that the commands are.
import { writeFileSync } from "node:fs";
import { loadCommands } from "../src/cli/commands.ts";
import { describeCommand, examplesOf, usageOf } from "../src/cli/program.ts";
import { type DescribedOption, helpOf } from "../src/options.ts";
import { isProgram } from "./compile.mjs";

const INTRODUCTION = `# The command line

\`npx lowrank COMMAND [flags]\`. Every command accepts \`--help\`, \`--json\` and \`--config FILE\`.

- **Results** go to standard output, progress that rewrites itself and failures to standard error. With \`--json\` each event is
  one JSON object on a line of its own, and a failure is \`{"error": code, "message", "subject", "expected", "got", "next"}\`.
- **Config files** are YAML or JSON: the names in the tables below with their values (\`learningRate: 1e-4\`), as \`lowrank init\`
  writes them ([config.md](config.md)). A flag on the command line wins over the file; a key that the command does not have is refused.
- **Exit status**: 0 done; 2 wrong input, found before any work; 1 a failure at work; 129, 130, 140 or 143 interrupted by SIGHUP, SIGINT, SIGUSR2 or SIGTERM (in a job of several processes 0).
- **Interrupting \`train\`**: the first Ctrl+C finishes the step, saves a checkpoint and prints how to resume; the second stops at
  once. A run that was interrupted or killed resumes with \`lowrank train --resume --output FOLDER\`: its options are stored in
  \`FOLDER/run.json\`, and its result equals, bit for bit, that of an uninterrupted run.
- **Models** (\`--base\`, \`--adapter\`) are a folder, the word \`embedded\`, or \`owner/name[@revision]\` on the hub
  ([hub.md](hub.md)). With \`--offline\` the hub is not contacted.
- **Data** are a file of records in any of the formats of [data.md](data.md).

This file is made by \`npm run docs:cli\`.
`;

const cell = (text: string) => text.replaceAll("|", "\\|");

function rowOf({ flag, name, value, isSwitch, isRequired, usual = "", ...info }: DescribedOption): string {
  const usage = `\`${flag}${isSwitch ? "" : ` ${value}`}\``;
  return `| ${cell(usage)} | \`${name}\` | ${cell(helpOf(info))} | ${cell(isRequired ? "required" : usual)} |`;
}

const upper = ({ name }: DescribedOption): string => name.toUpperCase();

/** docs/cli.md. */
export async function cliDocs(): Promise<string> {
  const sections = Object.entries(await loadCommands()).map(([name, command]) => {
    const { flags, arguments: given } = describeCommand(command);
    const summary = `${command.summary[0]!.toUpperCase()}${command.summary.slice(1)}.`;
    const rows = flags.map(rowOf);
    return [
      `## ${["lowrank", name, ...given.map((one) => usageOf({ ...one, name: upper(one) }, "…"))].join(" ")}`,
      [summary, ...given.map((one) => `${upper(one)}: ${helpOf(one)}.`)].join(" "),
      ["```sh", ...examplesOf(name, command), "```"].join("\n"),
      ...(rows.length > 0
        ? [["| flag | in a config file | what it is | default |", "|---|---|---|---|", ...rows].join("\n")]
        : []),
    ].join("\n\n");
  });
  return `${[INTRODUCTION, ...sections].join("\n\n").replace(/\n{3,}/g, "\n\n")}\n`;
}

if (isProgram(import.meta.url)) writeFileSync("docs/cli.md", await cliDocs());
