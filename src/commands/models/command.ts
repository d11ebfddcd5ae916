// Flags that name a model get its folder before the command runs, so that every command takes the same references.

import type { CommandTable } from "../../cli/flags.ts";
import { note, printJson } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { resolveModel } from "../../hub/reference.ts";
import { nodeFiles } from "../../platform/node/files.ts";
import type { HubEvent, HubOptions, ModelFolder } from "../../platform/platform.ts";
import { bytes, duration } from "../../units.ts";

/** Seconds between two lines of progress where lines are not rewritten. */
const PLAIN_SECONDS = { text: 10, json: 1 };

/** Names of the values of a command that name models. */
const modelsOf = ({ argument, flags }: CommandTable): string[] => [
  ...(argument?.model ? [argument.name] : []),
  ...flags.filter((flag) => flag.model).map((flag) => flag.name),
];

export const takesModels = (table: CommandTable): boolean => modelsOf(table).length > 0;

/**
 * The values with folders in place of references. A run keeps what its base is called, where that is not its folder. Data
 * files are looked for before a model is downloaded.
 */
export async function withFolders(
  table: CommandTable,
  values: Values,
  offline: boolean | undefined,
  json: boolean,
): Promise<Values> {
  const isNamed = table.flags.some((flag) => flag.name === "baseName");
  const folderOf = async (reference: string): Promise<ModelFolder> => {
    if (!(await nodeFiles.exists(reference).catch(() => false))) await checkFiles(table, values);
    return resolveAndTell(reference, { offline }, json);
  };
  const resolved: Values = { ...values };
  for (const key of modelsOf(table)) {
    const given = values[key];
    if (Array.isArray(given)) {
      const folders: string[] = [];
      for (const one of given) folders.push((await folderOf(one)).folder);
      resolved[key] = folders;
    } else if (typeof given === "string") {
      const model = await folderOf(given);
      resolved[key] = model.folder;
      if (isNamed && key === "base" && model.name !== model.folder) resolved["baseName"] ??= model.name;
    }
  }
  return resolved;
}

async function checkFiles({ flags }: CommandTable, values: Values): Promise<void> {
  for (const flag of flags.filter(({ name, value }) => value === "FILE" && name !== "output")) {
    const file = values[flag.name];
    if (typeof file === "string" && !(await nodeFiles.exists(file))) await nodeFiles.size(file);
  }
}

/** The folder of a model, with progress where it is downloaded. Ctrl+C ends the process; what has come stays. */
export async function resolveAndTell(reference: string, options: HubOptions, json: boolean): Promise<ModelFolder> {
  const report = json ? jsonReport() : textReport();
  const stop = () => {
    note(`\nStopped. Run the same again: the download goes on where it was.`);
    process.exit(130);
  };
  const onEvent = (event: HubEvent): void => {
    if (event.type === "download") process.once("SIGINT", stop);
    report(event);
  };
  try {
    return await resolveModel(reference, { ...options, onEvent });
  } finally {
    process.off("SIGINT", stop);
  }
}

/** Lets progress through now and then, and its end. */
function sparse(seconds: number): (event: HubEvent) => boolean {
  let last = performance.now();
  return (event) => {
    if (event.type !== "downloading") return true;
    if (event.done < event.bytes && performance.now() - last < 1000 * seconds) return false;
    last = performance.now();
    return true;
  };
}

function jsonReport(): (event: HubEvent) => void {
  const isTold = sparse(PLAIN_SECONDS.json);
  return (event) => {
    if (isTold(event)) printJson(event);
  };
}

function textReport(): (event: HubEvent) => void {
  const terminal = process.stderr.isTTY === true;
  const isTold = sparse(terminal ? 0 : PLAIN_SECONDS.text);
  const line = (text: string) => note(terminal ? `\r\x1b[K${text}` : text);
  return (event) => {
    switch (event.type) {
      case "download": {
        const there = event.there > 0 ? `, ${bytes(event.there)} of them there already` : "";
        line(`downloading ${event.model} (${event.commit.slice(0, 12)}): ${event.files} files, ${bytes(event.bytes)}${there}`);
        break;
      }
      case "downloading":
        if (!isTold(event)) break;
        if (terminal) process.stderr.write(`\r\x1b[K${progressLine(event).slice(0, (process.stderr.columns || 80) - 1)}`);
        else note(progressLine(event));
        break;
      case "waiting":
        line(`${event.reason}; trying again in ${duration(event.seconds)}`);
        break;
      case "downloaded":
        line(`downloaded to ${event.folder}`);
    }
  };
}

function progressLine({
  file,
  done,
  bytes: all,
  bytesPerSecond,
  secondsLeft,
}: Extract<HubEvent, { type: "downloading" }>): string {
  const share = `${Math.floor((100 * done) / Math.max(1, all))}%, ${bytes(done)} of ${bytes(all)}`;
  const speed = bytesPerSecond === null ? "" : `, ${bytes(bytesPerSecond)}/s, ${duration(secondsLeft!)} left`;
  return `${share}${speed}  ${file}`;
}
