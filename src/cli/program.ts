// The command line as commander sees it, made from the tables in flags.ts.
import { Command, CommanderError, Option } from "commander";
import { takesModels, withFolders } from "../commands/models/command.ts";
import { LowrankError } from "../errors.ts";
import { nodeFiles } from "../platform/node/files.ts";
import { version } from "../platform/node/version.ts";
import { type CommandName, type CommandTable, commands, defaultOf, type Flag, flagOf } from "./flags.ts";
import { printError } from "./terminal.ts";
import { parseValue, readConfigFile, type Values } from "./values.ts";

/** A command: it gets the values of its flags, and returns the exit status. */
interface CommandFile {
  run(values: Values, json: boolean): Promise<number>;
}

/** Each command's code, loaded when it is the one that runs. */
const load: Record<CommandName, () => Promise<CommandFile>> = {
  demo: () => import("../commands/demo/command.ts"),
  preview: () => import("../commands/preview/command.ts"),
  train: () => import("../commands/train/command.ts"),
  plan: () => import("../commands/plan/command.ts"),
  eval: () => import("../commands/eval/command.ts"),
  generate: () => import("../commands/generate/command.ts"),
  chat: () => import("../commands/chat/command.ts"),
  classify: () => import("../commands/classify/command.ts"),
  embed: () => import("../commands/embed/command.ts"),
  merge: () => import("../commands/merge/command.ts"),
  inspect: () => import("../commands/inspect/command.ts"),
  report: () => import("../commands/report/command.ts"),
  init: () => import("../commands/init/command.ts"),
  download: () => import("./download.ts"),
  runs: () => import("../commands/runs/command.ts"),
};

/** Runs the command line `args` (without node and script); resolves to the exit status: 0 done, 1 failed, 2 wrong input. */
export async function main(args: readonly string[]): Promise<number> {
  let status = 0;
  const program = makeProgram((code) => {
    status = code;
  });
  try {
    await program.parseAsync(args.length > 0 ? args : ["--help"], { from: "user" });
    return status;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    return printError(error instanceof CommanderError ? usageError(error, args) : error, args.includes("--json"));
  }
}

/** The program; `exit` gets the status that a command returns. */
export function makeProgram(exit: (status: number) => void): Command {
  const program = new Command("lowrank")
    .description("LoRA fine-tuning: a Hugging Face checkpoint and your data in, a PEFT-compatible adapter out.")
    .version(version)
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  for (const name of Object.keys(commands) as CommandName[]) addCommand(program, name, commands[name], exit);
  return program;
}

/** Options that are no flag of a command's own. */
interface Common {
  config?: string;
  offline?: boolean;
  json?: boolean;
}

function addCommand(program: Command, name: CommandName, table: CommandTable, exit: (status: number) => void): void {
  const command = program.command(name).description(table.summary).exitOverride();
  if (table.argument) command.argument(argumentOf(table.argument), table.argument.help);
  for (const flag of table.flags) for (const option of optionsOf(name, flag)) command.addOption(option);
  command.option("--config <FILE>", "a YAML or JSON file that sets any of these; the command line wins");
  if (takesModels(table)) command.option("--offline", "ask the hub nothing: models come from folders and the cache");
  command.option("--json", "print JSON, one object a line");
  command.action(async () => {
    const { config, offline, json = false, ...given } = command.opts() as Values & Common;
    const file = config === undefined ? {} : await readConfigFile(nodeFiles, config, table.flags);
    const values: Values = { ...withoutAlternatives(file, given), ...given };
    if (table.argument) values[table.argument.name] = table.argument.many ? command.args : command.args[0];
    requireFlags(name, table.flags, values);
    exit(await (await load[name]()).run(await withFolders(table, values, offline, json), json));
  });
}

/** An argument as commander writes it. */
function argumentOf({ name, many, optional }: NonNullable<CommandTable["argument"]>): string {
  const inner = `${name}${many ? "..." : ""}`;
  return optional ? `[${inner}]` : `<${inner}>`;
}

/** Of two options that exclude each other, the one on the command line silences the config file's other. */
function withoutAlternatives(file: Values, given: Values): Values {
  const other: Record<string, string> = { steps: "epochs", epochs: "steps", evalData: "evalSplit", evalSplit: "evalData" };
  return Object.fromEntries(Object.entries(file).filter(([name]) => !(other[name]! in given)));
}

/** The commander options of a flag. Defaults are told, not set: what is not given is left to the function that has it. */
function optionsOf(command: CommandName, flag: Flag): Option[] {
  const name = flagOf(flag.name);
  const shown = defaultOf(command, flag);
  const choices = flag.choices ? ` (${flag.choices.join(", ")})` : "";
  const help = `${flag.help}${choices}${shown === undefined ? "" : ` (default ${shown})`}`;
  if (flag.kind === "boolean") return [new Option(name, help), new Option(name.replace("--", "--no-")).hideHelp()];
  const option = new Option(`${name} <${flag.value}>`, help);
  const repeatable = flag.kind === "texts";
  option.argParser((text: string, before: unknown) => {
    const value = parseValue(flag, text);
    return repeatable ? [...((before as unknown[] | undefined) ?? []), ...(value as unknown[])] : value;
  });
  return [option];
}

function requireFlags(name: CommandName, flags: readonly Flag[], values: Values): void {
  const resumed = name === "train" && values["resume"] === true;
  const missing = flags.filter((flag) => flag.required && values[flag.name] === undefined);
  const wanted = resumed ? missing.filter((flag) => flag.name === "output") : missing;
  if (wanted.length === 0) return;
  throw new LowrankError("cli/usage", `${wanted.map((flag) => flagOf(flag.name)).join(", ")} must be given`, {
    expected: wanted.map((flag) => `${flagOf(flag.name)} ${flag.value}: ${flag.help}`).join("; "),
    next: `See lowrank ${name} --help.`,
  });
}

function usageError(error: CommanderError, args: readonly string[]): LowrankError {
  const [message, ...hints] = error.message.replace(/^error: /, "").split("\n");
  const command = args.find((arg) => Object.hasOwn(commands, arg));
  const help = `See lowrank ${command === undefined ? "" : `${command} `}--help.`;
  return new LowrankError("cli/usage", message!, {
    next: [...hints.map((hint) => hint.replace(/^\(|\)$/g, "")), help].join(" "),
  });
}
