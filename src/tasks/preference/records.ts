// Records of preferences, as TRL has them: a prompt with a chosen and a rejected answer, in strings or in lists of messages.
import type { ColumnNames, Fields, RecordFormat, RecordFormats } from "../../data/records.ts";
import type { ChatMessage } from "../../text/template.ts";

interface Answers<T> {
  prompt: T;
  chosen: T;
  rejected: T;
}

export type TextPreference = Answers<string>;
export type ConversationPreference = Answers<ChatMessage[]>;
export type Preference = TextPreference | ConversationPreference;

export const isConversation = (record: Preference): record is ConversationPreference => typeof record.prompt !== "string";

/** The formats of preferences; what both answers begin with is the prompt where a record has none. */
export function preferences({ promptColumn, chosenColumn, rejectedColumn }: ColumnNames): RecordFormats<Preference> {
  const keys = [promptColumn ?? "prompt", chosenColumn ?? "chosen", rejectedColumn ?? "rejected"] as const;
  const explicit: RecordFormat<Preference> = {
    name: "prompts with a chosen and a rejected answer",
    keys,
    optional: [],
    make: (row) => withPrompt(row, ...keys),
  };
  const implicit: RecordFormat<Preference> = {
    name: "a chosen and a rejected text",
    keys: keys.slice(1),
    optional: [],
    make: (row) => withoutPrompt(row, keys[1], keys[2]),
  };
  return {
    candidates: promptColumn === undefined ? [explicit, implicit] : [explicit],
    naming: "--prompt-column, --chosen-column and --rejected-column",
    pair: ["--chosen-column", "--rejected-column"],
  };
}

const isList = (row: Fields, key: string): boolean => Array.isArray(row.value(key));

function withPrompt(row: Fields, prompt: string, chosen: string, rejected: string): Preference {
  // Data sets add a prompt to conversations that begin with it.
  if (isList(row, chosen) && !isList(row, prompt)) return withoutPrompt(row, chosen, rejected);
  if (isList(row, prompt)) {
    const turns = (row.value(prompt) as unknown[]).length === 0 ? [] : row.turns(prompt);
    return { prompt: turns, chosen: row.turns(chosen), rejected: row.turns(rejected) };
  }
  return { prompt: row.text(prompt), chosen: row.text(chosen), rejected: row.text(rejected) };
}

/** What both begin with is the prompt; of texts, a space before it belongs to the answers (TRL's `extract_prompt`). */
function withoutPrompt(row: Fields, chosen: string, rejected: string): Preference {
  if (isList(row, chosen)) {
    const [a, b] = [row.turns(chosen), row.turns(rejected)];
    const border = commonLength(a.map(asText), b.map(asText));
    return { prompt: a.slice(0, border), chosen: a.slice(border), rejected: b.slice(border) };
  }
  const [a, b] = [row.text(chosen), row.text(rejected)].map((text) => [...text]) as [string[], string[]];
  const common = commonLength(a, b);
  const border = a[common - 1] === " " ? common - 1 : common;
  const text = (characters: string[], from: number, to?: number) => characters.slice(from, to).join("");
  return { prompt: text(a, 0, border), chosen: text(a, border), rejected: text(b, border) };
}

const asText = (message: ChatMessage): string => JSON.stringify(message);

/** How many items both begin with; one of each stays for the answer where one is the beginning of the other. */
function commonLength(a: readonly string[], b: readonly string[]): number {
  const most = Math.max(0, Math.min(a.length, b.length) - 1);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}
