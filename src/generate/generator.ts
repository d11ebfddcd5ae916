// Text in, text out: a base model, its tokenizer and an adapter that can be changed between generations.

import { attach } from "../adapters/attach.ts";
import type { Adapter, GivenAdapter } from "../adapters/peft-files.ts";
import { LowrankError } from "../errors.ts";
import type { Base } from "../models/base.ts";
import type { ImageTensors } from "../models/images.ts";
import { type ImageReading, imageSide, imageTensors } from "../multimodal/images.ts";
import type { Engine } from "../runtime/open-graph.ts";
import { openDecoder } from "./decoder.ts";
import { generate } from "./generate.ts";
import { type EncodedPrompt, encodePrompt, type Prompt } from "./prompts.ts";
import type { GenerateEvent, GenerateOptions, PromptBatch } from "./types.ts";

export interface GeneratorOptions extends Omit<Engine, "profile"> {
  /** Attached from the start; `useAdapter` changes it. */
  adapter?: GivenAdapter | null;
  /** Take adapters that were made for another base of the same shape. */
  anyBase?: boolean;
  /** Keep the cache of a prompt that is generated alone: the next one that begins with all of it runs the rest only. */
  reusePrefix?: boolean;
  /** What reads the images of prompts; without it, and the model's folder, there can be none. */
  reading?: ImageReading;
}

/** A generator holds a session; close it to free the weights. One generation runs at a time. */
export interface Generator {
  /**
   * Generates a continuation of each prompt in one batch (generate.ts has the events, the options and their errors).
   * Fails as `encodePrompt` (prompts.ts) does on prompts that cannot be encoded, and with `generate/busy` while another
   * generation runs.
   */
  generate(prompts: readonly Prompt[], options?: GenerateOptions): AsyncGenerator<GenerateEvent, void, undefined>;
  /**
   * Attaches another adapter, or none, without opening the base again, except for the first one where it was opened without. Fails with `adapter/*` if it does not fit the base
   * and with `generate/busy` while a generation runs; the adapter before stays.
   */
  useAdapter(adapter: Adapter | null): Promise<void>;
  close(): Promise<void>;
}

export async function openGenerator(
  base: Base,
  { adapter = null, anyBase, openSession, threads, baseDtype, reusePrefix, reading }: GeneratorOptions,
): Promise<Generator> {
  const attached = adapter && (await attach(base, adapter, { anyBase })).adapter;
  const tokenizer = await base.tokenizer();
  const decoder = await openDecoder({ ...base, openSession, threads, baseDtype, reusePrefix, adapter: attached });
  const side = imageSide(base, tokenizer, reading);
  let running = false;
  const checkIdle = () => {
    if (!running) return;
    throw new LowrankError("generate/busy", "the generator is at work on other prompts", {
      next: "Read the events of the generation before to their end, or open another generator.",
    });
  };
  return {
    async *generate(prompts, options) {
      checkIdle();
      running = true;
      try {
        const encoded: EncodedPrompt[] = [];
        for (const prompt of prompts) encoded.push(await encodePrompt(base, tokenizer, side, prompt));
        const ids = encoded.map((prompt) => prompt.ids);
        const processor = side && encoded.some((prompt) => prompt.images.length > 0) ? await side.processor() : null;
        const images = (batch: PromptBatch): ImageTensors | null => {
          const rows = encoded.map((prompt) => ({ ...prompt, start: batch.width - prompt.ids.length })); // padded on the left
          return processor && imageTensors(side!.text, processor, batch, rows);
        };
        yield* generate(decoder, tokenizer, ids, options, images);
      } finally {
        running = false;
      }
    },
    async useAdapter(next) {
      checkIdle();
      await decoder.useAdapter(next && (await attach(base, next, { anyBase })).adapter);
    },
    close: () => decoder.close(),
  };
}

/** The whole continuation of one prompt. */
export async function generateText(generator: Generator, prompt: Prompt, options?: GenerateOptions): Promise<string> {
  let text = "";
  for await (const event of generator.generate([prompt], options)) if (event.type === "done") text = event.text;
  return text;
}
