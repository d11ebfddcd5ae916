// How a model is asked what it was trained to answer: the kind of the records, and the text around every prompt.
import { commonPrefix } from "../text/turns.ts";
import type { DataRecord } from "./records.ts";

/**
 * `messages`: by the chat template. `text`: by the beginning of a text. `completion`: by a prompt as it stands, between the
 * texts that every prompt of the data has around it (a heading such as "### Instruction:\n", a last line break).
 */
export type PromptFormat = { kind: "messages" } | { kind: "text" } | { kind: "completion"; before: string; after: string };

/** Looks at records one by one; `format` is what they have in common, null before the first. */
export interface PromptFormatFinder {
  add(record: DataRecord): void;
  format(): PromptFormat | null;
}

export function promptFormatOf(): PromptFormatFinder {
  let kind: PromptFormat["kind"] | null = null;
  let start = "";
  let end = "";
  let shortest = Number.POSITIVE_INFINITY;
  let longest = 0;
  return {
    add(record) {
      const first = kind === null;
      kind ??= "messages" in record ? "messages" : "text" in record ? "text" : "completion";
      if (!("prompt" in record)) return;
      const { prompt } = record;
      shortest = Math.min(shortest, prompt.length);
      longest = Math.max(longest, prompt.length);
      start = first ? prompt : start.slice(0, commonPrefix(start, prompt));
      end = first ? prompt : prompt.slice(prompt.length - commonEnd(end, prompt));
    },
    format() {
      if (kind !== "completion") return kind && { kind };
      // What prompts share by chance ("What is ", "?") is left to who writes them: a beginning counts up to its last line
      // break or colon, an end from its first white space.
      const before = /^[\s\S]*(\n|:\s)/.exec(start)?.[0] ?? "";
      const after = /\s[\s\S]*$/.exec(end)?.[0] ?? "";
      const vary = start.length < longest && before.length + after.length <= shortest;
      if (vary) return { kind, before, after };
      return { kind, before: "", after: /\s*$/.exec(end)![0] };
    },
  };
}

/** `text` as a prompt of the data would be: with what comes before and after, where it is not there already. */
export function asPrompt(text: string, { before, after }: { before: string; after: string }): string {
  const started = text.startsWith(before) ? text : before + text;
  let there = after.length;
  while (!started.endsWith(after.slice(0, there))) there--;
  return started + after.slice(there);
}

/** How many UTF-16 units two texts end with in common. */
function commonEnd(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a.at(-1 - length) === b.at(-1 - length)) length++;
  return length;
}
