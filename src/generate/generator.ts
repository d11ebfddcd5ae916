// Text in, text out: a base model, its tokenizer and an adapter that can be changed between generations.

import { LowrankError } from "../errors.ts";
import type { Adapter } from "../lora/adapter.ts";
import type { Base } from "../models/base.ts";
import { checkMadeFor } from "../models/fingerprint.ts";
import type { OpenSession } from "../runtime/session.ts";
import { type ChatMessage, renderChat } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { openDecoder } from "./decoder.ts";
import { generate } from "./generate.ts";
import type { GenerateEvent, GenerateOptions } from "./types.ts";

/** Text that is continued as it stands, the messages of a conversation that is answered, or token ids. */
export type Prompt = string | readonly ChatMessage[] | Int32Array;

export interface GeneratorOptions {
  openSession: OpenSession;
  /** Attached from the start; `useAdapter` changes it. */
  adapter?: Adapter | null;
  /** Take adapters that were made for another base of the same shape. */
  anyBase?: boolean;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
}

/** A generator holds a session; close it to free the weights. One generation runs at a time. */
export interface Generator {
  /**
   * Generates a continuation of each prompt in one batch (generate.ts has the events, the options and their errors).
   * Fails with `generate/no-template` on messages where the checkpoint has no chat template, and with `generate/busy`
   * while another generation runs.
   */
  generate(prompts: readonly Prompt[], options?: GenerateOptions): AsyncGenerator<GenerateEvent, void, undefined>;
  /**
   * Attaches another adapter, or none, without opening the base again. Fails with `adapter/*` if it does not fit the base
   * and with `generate/busy` while a generation runs; the adapter before stays.
   */
  useAdapter(adapter: Adapter | null): Promise<void>;
  close(): Promise<void>;
}

/** Opens the base for generation. */
export async function openGenerator(
  base: Base,
  { adapter = null, anyBase, openSession, threads }: GeneratorOptions,
): Promise<Generator> {
  if (adapter) await checkMadeFor(base, adapter, anyBase);
  const tokenizer = await base.tokenizer();
  const decoder = await openDecoder({ checkpoint: base.checkpoint, config: base.config, openSession, threads });
  const encoded = (prompt: Prompt) =>
    typeof prompt === "string" || prompt instanceof Int32Array ? prompt : encodeChat(tokenizer, prompt);
  let running = false;
  const checkIdle = () => {
    if (!running) return;
    throw new LowrankError("generate/busy", "the generator is at work on other prompts", {
      next: "Read the events of the generation before to their end, or open another generator.",
    });
  };
  const generator: Generator = {
    async *generate(prompts, options) {
      checkIdle();
      running = true;
      try {
        yield* generate(decoder, tokenizer, prompts.map(encoded), options);
      } finally {
        running = false;
      }
    },
    async useAdapter(next) {
      checkIdle();
      if (next) await checkMadeFor(base, next, anyBase);
      await decoder.useAdapter(next);
    },
    close: () => decoder.close(),
  };
  try {
    await generator.useAdapter(adapter);
  } catch (error) {
    await decoder.close();
    throw error;
  }
  return generator;
}

/**
 * The ids of a conversation up to the header of the answer. The template writes its special tokens itself. Fails with
 * `generate/no-template` where the checkpoint has none, and with the template's own errors.
 */
export function encodeChat(tokenizer: Tokenizer, messages: readonly ChatMessage[]): Int32Array {
  if (!tokenizer.template) {
    throw new LowrankError("generate/no-template", "the checkpoint has no chat template", {
      subject: "messages",
      expected: "chat_template in tokenizer_config.json, or chat_template.jinja",
      next: "Give the prompt as text, or use an instruction-tuned checkpoint.",
    });
  }
  const text = renderChat(tokenizer.template, messages, { addGenerationPrompt: true });
  return tokenizer.encode(text, { addSpecialTokens: false });
}
