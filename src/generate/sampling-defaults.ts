// How a checkpoint says it wants to be sampled: generation_config.json, read as Transformers' GenerationConfig reads it.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject } from "../formats/json.ts";
import type { Sampling } from "./types.ts";

/** What Transformers takes where `do_sample` is true and the file does not say. */
const SAMPLED = { temperature: 1, topK: 50, topP: 1 };

const KEYS = { temperature: "temperature", topK: "top_k", topP: "top_p", repetitionPenalty: "repetition_penalty" } as const;

/**
 * The sampling of the checkpoint in `folder`: greedy unless `do_sample` is true; the repetition penalty holds either way.
 * Fails with `generate/config` on a value that is no number.
 */
export async function readSamplingDefaults(files: Files, folder: string): Promise<Omit<Sampling, "seed">> {
  const file = `${folder}/generation_config.json`;
  const config = (await files.exists(file)) ? await readJsonObject(files, file) : {};
  const sampled = config["do_sample"] === true;
  const fallbacks = { ...SAMPLED, repetitionPenalty: 1 };
  const number = (name: keyof typeof KEYS): number => {
    const value = config[KEYS[name]] ?? fallbacks[name];
    if (typeof value === "number") return value;
    throw new LowrankError("generate/config", "the checkpoint's sampling settings are invalid", {
      subject: file,
      expected: `a number for ${KEYS[name]}`,
      got: JSON.stringify(value).slice(0, 80),
      next: "Correct the file, or fetch it again.",
    });
  };
  const repetitionPenalty = number("repetitionPenalty");
  if (!sampled) return { temperature: 0, topK: 0, topP: 1, repetitionPenalty };
  return { temperature: number("temperature"), topK: number("topK"), topP: number("topP"), repetitionPenalty };
}
