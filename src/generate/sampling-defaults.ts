// How a checkpoint says it wants to be sampled: generation_config.json, read as Transformers' GenerationConfig reads it.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject } from "../formats/json.ts";
import type { Sampling } from "./types.ts";

/** Transformers' keys, and what it takes where `do_sample` is true and the file does not say. */
const KEYS = {
  temperature: ["temperature", 1],
  topK: ["top_k", 50],
  topP: ["top_p", 1],
  repetitionPenalty: ["repetition_penalty", 1],
} as const;

/**
 * The sampling of the checkpoint in `folder`: greedy unless `do_sample` is true; the repetition penalty holds either way.
 * Fails with `generate/config` on a value that is no number.
 */
export async function readSamplingDefaults(files: Files, folder: string): Promise<Omit<Sampling, "seed">> {
  const file = `${folder}/generation_config.json`;
  const config = (await files.exists(file)) ? await readJsonObject(files, file) : {};
  const number = (name: keyof typeof KEYS): number => {
    const [key, usual] = KEYS[name];
    const value = config[key] ?? usual;
    if (typeof value === "number") return value;
    throw new LowrankError("generate/config", "the checkpoint's sampling settings are invalid", {
      subject: file,
      expected: `a number for ${key}`,
      got: JSON.stringify(value).slice(0, 80),
      next: "Correct the file, or fetch it again.",
    });
  };
  const repetitionPenalty = number("repetitionPenalty");
  if (config["do_sample"] !== true) return { temperature: 0, topK: 0, topP: 1, repetitionPenalty };
  return { temperature: number("temperature"), topK: number("topK"), topP: number("topP"), repetitionPenalty };
}
