// The text of one generation, for those who need no stream.
import type { Generator } from "./generator.ts";
import type { Prompt } from "./prompts.ts";
import type { GenerateOptions } from "./types.ts";

/** The whole continuation of one prompt. */
export async function generateText(generator: Generator, prompt: Prompt, options?: GenerateOptions): Promise<string> {
  let text = "";
  for await (const event of generator.generate([prompt], options)) if (event.type === "done") text = event.text;
  return text;
}
