// lowrank generate: a prompt or a conversation in, text as it comes out.
import path from "node:path";
import { text as readAll } from "node:stream/consumers";
import { print, printJson } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { LowrankError } from "../../errors.ts";
import { readText } from "../../formats/json.ts";
import type { Prompt } from "../../generate/prompts.ts";
import { imagePath } from "../../images/paths.ts";
import { locatedIn } from "../../multimodal/conversation.ts";
import type { ImageReference } from "../../multimodal/images.ts";
import { loadBase, openGenerator } from "../../node.ts";
import { nodeFiles } from "../../platform/node/files.ts";
import { contentIn } from "../../text/parts.ts";
import type { ChatMessage } from "../../text/template.ts";

interface Options {
  base: string;
  adapter?: string;
  anyBase?: boolean;
  prompt?: string;
  messages?: string;
  image?: string[];
  threads?: number;
}

/** Generates; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const { base: name, adapter, anyBase, prompt, messages, image = [], threads, ...options } = values as Values & Options;
  const read = await readPrompt(prompt, messages);
  const base = await loadBase(name);
  const given = image.length === 0 ? read : withImages(read, image, (await base.tokenizer()).template !== undefined);
  const generator = await openGenerator(base, { adapter, anyBase, threads });
  try {
    for await (const event of generator.generate([given], options)) {
      if (json) printJson(event.type === "done" ? { ...event, ids: [...event.ids] } : event);
      else if (event.type === "token") process.stdout.write(event.text);
      else print("");
    }
  } finally {
    await generator.close();
  }
  return 0;
}

/** What is asked for; of messages, the images listed beside them. */
type Read = string | { messages: ChatMessage[]; images: ImageReference[] };

/** A prompt with the images of the command line: those of a text come before it, in a question where the model is asked in turns. */
function withImages(read: Read, images: readonly string[], isChat: boolean): Prompt {
  if (typeof read !== "string") return { ...read, images: [...read.images, ...images] };
  return isChat ? { messages: [{ role: "user", content: read }], images } : { text: read, images };
}

async function readPrompt(prompt: string | undefined, messages: string | undefined): Promise<Read> {
  if (prompt !== undefined && messages !== undefined) {
    throw new LowrankError("cli/usage", "--prompt and --messages cannot both be given", { next: "Leave out one of them." });
  }
  if (messages !== undefined) return parseMessages(await readText(nodeFiles, messages), messages);
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
  const whole = Array.isArray(value) ? { messages: value } : ((value ?? {}) as { messages?: unknown; images?: unknown });
  const { messages: list, images = [] } = whole as { messages?: unknown; images?: unknown };
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
