// lowrank generate: a prompt or a conversation in, text as it comes out.

import path from "node:path";
import { text as readAll } from "node:stream/consumers";
import { z } from "zod";
import { openAdapter } from "../../adapters/peft-files.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { readText } from "../../formats/json.ts";
import { readGenerateOptions } from "../../generate/generate.ts";
import { openGenerator } from "../../generate/generator.ts";
import type { Prompt } from "../../generate/prompts.ts";
import { imagePath } from "../../images/image.ts";
import { loadBase } from "../../models/base.ts";
import { locatedIn } from "../../multimodal/conversation.ts";
import type { ImageReference } from "../../multimodal/images.ts";
import { option } from "../../options.ts";
import { onDevice } from "../../platform/devices.ts";
import { print, printJson, screen } from "../../terminal/terminal.ts";
import { contentIn } from "../../text/parts.ts";
import type { ChatMessage } from "../../text/template.ts";
import { adapterOption, anyBase, base, baseDtype, defineCommand, device, threads } from "../command.ts";

const { sampling, maxNewTokens } = readGenerateOptions({});

export const command = defineCommand({
  summary: "continue a prompt, or answer a conversation",
  options: {
    base,
    adapter: adapterOption("an adapter to attach"),
    anyBase,
    prompt: option(z.string().optional(), { help: "the text to continue (standard input)" }),
    messages: option(z.string().optional(), {
      value: "FILE",
      help: 'a conversation to answer: JSON, [{"role": …, "content": …}, …]',
    }),
    image: option(z.array(z.string()).optional(), {
      value: "FILE",
      help: "a PNG, JPEG or WebP file, for models that read images: it comes before the prompt; can be repeated",
    }),
    maxNewTokens: option(z.number().default(maxNewTokens), { help: "maximum number of tokens to generate" }),
    temperature: option(z.number().default(sampling.temperature), { value: "X", help: "0 picks the likeliest token" }),
    topK: option(z.number().default(sampling.topK), { help: "only the N likeliest tokens; 0 keeps all" }),
    topP: option(z.number().default(sampling.topP), { value: "P", help: "only the likeliest tokens that make up this mass" }),
    repetitionPenalty: option(z.number().default(sampling.repetitionPenalty), {
      value: "X",
      help: "above 1, tokens seen before are less likely",
    }),
    stop: option(z.array(z.string()).optional(), { help: "stop before this text; can be repeated" }),
    seed: option(z.number().default(sampling.seed), { help: "the same seed gives the same text" }),
    baseDtype,
    device,
    threads,
  },
  examples: ['--base embedded --adapter my-adapter --prompt "name[The Eagle], food[Italian]"', "--base embedded < prompt.txt"],
  async run(
    { base: folder, adapter, anyBase, prompt, messages, image = [], baseDtype, device, threads, ...options },
    { platform, json },
  ) {
    const read = await readPrompt(platform.files, prompt, messages);
    const { files, timeLimit, openSession } = await onDevice(platform, device);
    const base = await loadBase(files, folder, timeLimit);
    const given = image.length === 0 ? read : withImages(read, image, (await base.tokenizer()).template !== undefined);
    const attached = adapter === undefined ? null : await openAdapter(files, adapter, platform.adapterLimits);
    const generator = await openGenerator(base, {
      adapter: attached,
      anyBase,
      baseDtype,
      threads,
      openSession,
      reading: platform,
    });
    try {
      for await (const event of generator.generate([given], options)) {
        if (json) printJson(event.type === "done" ? { ...event, ids: [...event.ids] } : event);
        else if (event.type === "token") screen.write(event.text);
        else print("");
      }
    } finally {
      await generator.close();
    }
    return 0;
  },
});

/** What is asked for; of messages, the images listed beside them. */
type Read = string | { messages: ChatMessage[]; images: ImageReference[] };

/** A prompt with the images of the command line: those of a text come before it, in a question where the model is asked in turns. */
function withImages(read: Read, images: readonly string[], isChat: boolean): Prompt {
  if (typeof read !== "string") return { ...read, images: [...read.images, ...images] };
  return isChat ? { messages: [{ role: "user", content: read }], images } : { text: read, images };
}

async function readPrompt(files: Files, prompt: string | undefined, messages: string | undefined): Promise<Read> {
  if (prompt !== undefined && messages !== undefined) {
    throw new LowrankError("cli/usage", "--prompt and --messages cannot both be given", { next: "Leave out one of them." });
  }
  if (messages !== undefined) return parseMessages(await readText(files, messages), messages);
  if (prompt !== undefined) return prompt;
  if (process.stdin.isTTY) {
    throw new LowrankError("cli/usage", "there is no prompt", {
      expected: "--prompt TEXT, --messages FILE, or text on standard input",
      next: "Give one of them.",
    });
  }
  return readAll(process.stdin);
}

/** The conversation of a file; the paths of its images are relative to the file. */
function parseMessages(source: string, subject: string): Read {
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch (cause) {
    throw malformed(subject, (cause as Error).message);
  }
  const whole = (Array.isArray(value) ? { messages: value } : (value ?? {})) as { messages?: unknown; images?: unknown };
  const { messages: list, images = [] } = whole;
  const isMessage = (each: unknown) => typeof (each as ChatMessage | null)?.role === "string";
  if (!Array.isArray(list) || list.length === 0 || !list.every(isMessage)) throw malformed(subject, "something else");
  if (!Array.isArray(images) || !images.every((image) => typeof image === "string")) throw malformed(subject, "other images");
  const messages = list.map((message: ChatMessage, i) => ({
    ...message,
    content: contentIn(message.content, `message ${i}: content`, subject),
  }));
  const folder = path.dirname(subject);
  return { messages: locatedIn(folder, messages), images: images.map((image: string) => imagePath(image, folder)) };
}

const malformed = (subject: string, got: string): LowrankError =>
  new LowrankError("cli/messages", "the file does not hold a conversation", {
    subject,
    expected:
      'JSON: [{"role": "user", "content": "…"}, …], or an object with such a list under "messages" and paths under "images"',
    got,
    next: "Correct the file.",
  });
