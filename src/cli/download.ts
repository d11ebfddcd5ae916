// lowrank download: a model from the hub into the cache, so that it is there when it is used.
import { resolveAndTell } from "../commands/models/command.ts";
import { print, printJson } from "./terminal.ts";
import type { Values } from "./values.ts";

/** Downloads; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const { folder, name } = await resolveAndTell(String(values["name"]), { refresh: true }, json);
  if (json) printJson({ type: "done", model: name, folder });
  else print(folder);
  return 0;
}
