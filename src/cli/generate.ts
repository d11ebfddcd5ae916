// lowrank generate: a prompt or a conversation in, text as it comes out.
import { text as readAll } from "node:stream/consumers";
import { LowrankError } from "../errors.ts";
import { readText } from "../formats/json.ts";
import type { Prompt } from "../generate/generator.ts";
import { openGenerator } from "../node.ts";
import { nodeFiles } from "../runtime/node-files.ts";
import type { ChatMessage } from "../text/template.ts";
import { print, printJson } from "./terminal.ts";
import type { Values } from "./values.ts";

interface Options {
  base: string;
  adapter?: string;
  anyBase?: boolean;
  prompt?: string;
  messages?: string;
  threads?: number;
}

/** Generates; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const { base, adapter, anyBase, prompt, messages, threads, ...options } = values as Values & Options;
  const given = await readPrompt(prompt, messages);
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

async function readPrompt(prompt: string | undefined, messages: string | undefined): Promise<Prompt> {
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

function parseMessages(source: string, subject: string): ChatMessage[] {
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch (cause) {
    throw malformed(subject, (cause as Error).message);
  }
  const list = Array.isArray(value) ? value : (value as { messages?: unknown } | null)?.messages;
  const isMessage = (each: unknown) => {
    const { role, content } = (each ?? {}) as Record<string, unknown>;
    return typeof role === "string" && typeof content === "string";
  };
  if (!Array.isArray(list) || list.length === 0 || !list.every(isMessage)) throw malformed(subject, "something else");
  return list;
}

const malformed = (subject: string, got: string): LowrankError =>
  new LowrankError("cli/messages", "the file does not hold a conversation", {
    subject,
    expected: 'JSON: [{"role": "user", "content": "…"}, …], or an object with such a list under "messages"',
    got,
    next: "Correct the file.",
  });
