// A base's config.json as text that is written again with a few values changed, and all others as they are.
import type { Files } from "../files.ts";
import { encodeJson, type Json, parseStrictJson, readText } from "../formats/json.ts";
import { MAX_LABELS } from "./config/schema.ts";

/** Values of a config.json: those of the largest head, twice, and some thousands more. */
const MAX_CONFIG_VALUES = 4 * MAX_LABELS;

export type ConfigJson = Map<string, Json>;

/** The members of a folder's config.json, an object as was read before, in their order. */
export async function readConfigJson(files: Files, folder: string): Promise<ConfigJson> {
  const path = `${folder}/config.json`;
  const source = { code: "config", subject: path, maxValues: MAX_CONFIG_VALUES };
  return parseStrictJson(await readText(files, path), source) as ConfigJson;
}

/** The text of a config.json with these members. */
export const configText = (json: ConfigJson): string => encodeJson(json);

/** The members themselves and those of the language model inside, which say of it what they say of the whole. */
export const partsOfConfig = (json: ConfigJson): ConfigJson[] => {
  const text = json.get("text_config");
  return text instanceof Map ? [json, text] : [json];
};
