// Flags that name a model get its folder before the command runs, so that every command takes the same references.
import type { HubOptions } from "../hub/hub.ts";
import { resolveModel } from "../hub/reference.ts";
import type { CommandTable } from "./flags.ts";
import type { Values } from "./values.ts";

/** Names of the values of a command that name models. */
const modelsOf = ({ argument, flags }: CommandTable): string[] => [
  ...(argument?.model ? [argument.name] : []),
  ...flags.filter((flag) => flag.model).map((flag) => flag.name),
];

export const takesModels = (table: CommandTable): boolean => modelsOf(table).length > 0;

/** The values with folders in place of references. A run keeps what its base is called, where that is not its folder. */
export async function withFolders(table: CommandTable, values: Values, options: HubOptions): Promise<Values> {
  const isNamed = table.flags.some((flag) => flag.name === "baseName");
  const resolved: Values = { ...values };
  for (const key of modelsOf(table)) {
    const given = values[key];
    if (Array.isArray(given)) {
      resolved[key] = [];
      for (const one of given) (resolved[key] as string[]).push((await resolveModel(one, options)).folder);
    } else if (typeof given === "string") {
      const model = await resolveModel(given, options);
      resolved[key] = model.folder;
      if (isNamed && key === "base" && model.name !== model.folder) resolved["baseName"] ??= model.name;
    }
  }
  return resolved;
}
