// The command line as commander sees it, made from the commands in commands.ts.
import { Command as Commander, CommanderError, Option } from "commander";
import type { Command } from "../commands/command.ts";
import { parseValue, readConfigFile, type Values } from "../commands/config-file.ts";
import { LowrankError } from "../errors.ts";
import { lowrank as api, nodePlatform } from "../node.ts";
import { type DescribedOption, describeOptions, helpOf } from "../options.ts";
import { version } from "../platform/node/host.ts";
import type { ModelFolder } from "../platform/platform.ts";
import { resolveAndReport } from "../terminal/download.ts";
import { printError, silence } from "../terminal/terminal.ts";
import { loadCommands } from "./commands.ts";
import { afterFirst, inJob, isSilent } from "./job.ts";

/** Runs the command line `args` (without node and script); resolves to the exit status: 0 done, 1 failed, 2 wrong input. */
export async function main(args: readonly string[]): Promise<number> {
  let status = 0;
  silence(isSilent());
  const program = makeProgram(await loadCommands(args[0]), (code) => {
    status = code;
  });
  try {
    await program.parseAsync(args.length > 0 ? args : ["--help"], { from: "user" });
    return status;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    await afterFirst();
    return printError(error instanceof CommanderError ? usageError(error, args, program) : error, args.includes("--json"));
  }
}

/** The program; `exit` gets the status that a command returns. */
export function makeProgram(commands: Record<string, Command>, exit: (status: number) => void): Commander {
  const program = new Commander("lowrank")
    .description("LoRA fine-tuning: a Hugging Face checkpoint and your data in, a PEFT-compatible adapter out.")
    .version(version)
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  for (const [name, command] of Object.entries(commands)) addCommand(program, name, command, exit);
  return program;
}

/** A command's options as the command line has them: flags, and arguments. */
export function describeCommand({ options, argument = [] }: Command): { flags: DescribedOption[]; arguments: DescribedOption[] } {
  const all = describeOptions(options);
  const names = [argument].flat();
  return {
    flags: all.filter(({ name }) => !names.includes(name)),
    arguments: names.map((argument) => all.find(({ name }) => name === argument)!),
  };
}

/** The argument as usage has it: `<folder>`, `[files...]`. */
export const usageOf = ({ name, isRepeatable, isRequired }: DescribedOption, more = "..."): string =>
  isRequired ? `${name}${isRepeatable ? more : ""}` : `[${name}${isRepeatable ? more : ""}]`;

/** The command lines that show what a command is for. */
export const examplesOf = (name: string, { examples }: Command): string[] =>
  examples.map((example) => `npx lowrank ${name} ${example}`.trimEnd());

/** Options that every command has. */
interface Common {
  config?: string;
  offline?: boolean;
  json?: boolean;
}

function addCommand(program: Commander, name: string, command: Command, exit: (status: number) => void): void {
  const { flags, arguments: given } = describeCommand(command);
  const row = program.command(name).description(command.summary).exitOverride();
  for (const argument of given) row.argument(argument.isRequired ? `<${usageOf(argument)}>` : usageOf(argument), argument.help);
  for (const flag of flags) for (const option of optionsOf(flag)) row.addOption(option);
  row.option("--config <FILE>", "a YAML or JSON file that sets any of these; the command line wins");
  if (takesModels(command)) row.option("--offline", "ask the hub nothing: models come from folders and the cache");
  row.option("--json", "print JSON, one object a line");
  row.addHelpText("after", ["\nExamples:", ...examplesOf(name, command)].join("\n  "));
  row.action(async () => {
    const { config, offline, json = false, ...set } = row.opts() as Values & Common;
    const file = config === undefined ? {} : await readConfigFile(nodePlatform.files, config, flags);
    const values: Values = { ...withoutAlternatives(file, set, flags), ...set };
    for (const [i, { name, isRepeatable }] of given.entries()) values[name] = isRepeatable ? row.args.slice(i) : row.args[i];
    requireFlags(name, flags, values, command.required?.(values));
    const prepare = () => withFolders(command, values, offline, json);
    exit(await inJob(name, command, nodePlatform, prepare, (all, platform) => command.run(all, { platform, api, json })));
  });
}

/** Of two options that exclude each other, the one on the command line silences the config file's other (and its own value there). */
function withoutAlternatives(file: Values, given: Values, flags: readonly DescribedOption[]): Values {
  const silenced = flags.flatMap(({ name, excludes = name }) => [name in given && excludes, excludes in given && name]);
  return Object.fromEntries(Object.entries(file).filter(([name]) => !silenced.includes(name)));
}

/** The commander options of a flag. Defaults are shown, not set: what is not given is left to the function that has it. */
function optionsOf(flag: DescribedOption): Option[] {
  const help = `${helpOf(flag)}${flag.usual === undefined ? "" : ` (default ${flag.usual})`}`;
  if (flag.isSwitch) return [new Option(flag.flag, help), new Option(flag.flag.replace("--", "--no-")).hideHelp()];
  const option = new Option(`${flag.flag} <${flag.value}>`, help);
  option.argParser((text: string, before: unknown) => {
    const value = parseValue(flag, text);
    return flag.isRepeatable ? [...((before as unknown[] | undefined) ?? []), ...(value as unknown[])] : value;
  });
  return [option];
}

function requireFlags(command: string, flags: readonly DescribedOption[], values: Values, required?: readonly string[]): void {
  const missing = flags.filter(({ name, isRequired }) => (required?.includes(name) ?? isRequired) && values[name] === undefined);
  if (missing.length === 0) return;
  throw new LowrankError("cli/usage", `${missing.map(({ flag }) => flag).join(", ")} must be given`, {
    expected: missing.map(({ flag, value, help }) => `${flag} ${value}: ${help}`).join("; "),
    next: `See lowrank ${command} --help.`,
  });
}

function usageError(error: CommanderError, args: readonly string[], program: Commander): LowrankError {
  const [message, ...hints] = error.message.replace(/^error: /, "").split("\n");
  const command = args.find((arg) => program.commands.some((one) => one.name() === arg));
  const help = `See lowrank ${command === undefined ? "" : `${command} `}--help.`;
  return new LowrankError("cli/usage", message!, {
    next: [...hints.map((hint) => hint.replace(/^\(|\)$/g, "")), help].join(" "),
  });
}

const modelsOf = (command: Command): DescribedOption[] => describeOptions(command.options).filter(({ model }) => model);

export const takesModels = (command: Command): boolean => modelsOf(command).length > 0;

/**
 * The values with folders in place of references. A run keeps what its base is called, where that is not its folder. Data
 * files are looked for before a model is downloaded.
 */
async function withFolders(command: Command, values: Values, offline: boolean | undefined, json: boolean): Promise<Values> {
  const folderOf = async (reference: string, model: DescribedOption["model"]): Promise<ModelFolder> => {
    const isThere = await nodePlatform.files.exists(reference).catch(() => false);
    if (isThere && model === "or a file") return { folder: reference, name: reference };
    if (!isThere) await checkFiles(command, values);
    return resolveAndReport(reference, { offline }, json);
  };
  const resolved: Values = { ...values };
  for (const { name: key, model } of modelsOf(command)) {
    const given = values[key];
    if (given === undefined) continue;
    const found: ModelFolder[] = [];
    for (const one of [given].flat() as string[]) found.push(await folderOf(one, model));
    resolved[key] = Array.isArray(given) ? found.map(({ folder }) => folder) : found[0]!.folder;
    if (key === "base" && "baseName" in command.options && found[0]!.name !== resolved[key])
      resolved["baseName"] ??= found[0]!.name;
  }
  return resolved;
}

async function checkFiles({ options }: Command, values: Values): Promise<void> {
  for (const { name, value } of describeOptions(options)) {
    const file = values[name];
    if (value !== "FILE" || name === "output" || typeof file !== "string") continue;
    if (!(await nodePlatform.files.exists(file))) await nodePlatform.files.size(file);
  }
}
