// The chat templates of test/fixtures/chat-templates/families: conversations, what is trained of each, and what Transformers renders.
import { readFileSync } from "node:fs";
import type { ChatMessage, ChatTemplate } from "../../src/text/template.ts";
import { fixtures } from "./repository.ts";

const read = (name: string): string => readFileSync(`${fixtures}/chat-templates/${name}`, "utf8");

export interface Family {
  name: string;
  tokens: Record<string, string>;
  /** Of each conversation, the texts that are trained. */
  trained: Record<string, string[]>;
  /** Of each conversation that the template refuses, what it says. */
  refused?: Record<string, string>;
}

export interface Rendering {
  conversation: string;
  addGenerationPrompt: boolean;
  text?: string;
  error?: string;
}

const file = JSON.parse(read("families.json")) as {
  date: string;
  conversations: Record<string, ChatMessage[]>;
  families: Record<string, Omit<Family, "name">>;
};

export const conversations = file.conversations;
export const now = new Date(`${file.date}T00:00:00`);
export const families: Family[] = Object.entries(file.families).map(([name, family]) => ({ name, ...family }));
/** By the name of the family; made by scripts/reference/chat_templates.py. */
export const rendered = JSON.parse(read("families-rendered.json")) as Record<string, Rendering[]>;

export const sourceOf = ({ name }: Family): string => read(`families/${name}.jinja`);
export const templateOf = (family: Family): ChatTemplate => ({
  source: sourceOf(family),
  file: `${family.name}.jinja`,
  tokens: family.tokens,
});
