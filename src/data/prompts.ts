// How a model is asked what it was trained to answer: the kind of the records, and the text around every prompt.
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
      start = first ? prompt : commonStart(start, prompt);
      end = first ? prompt : commonEnd(end, prompt);
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

function commonStart(a: string, b: string): string {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return a.slice(0, n);
}

function commonEnd(a: string, b: string): string {
  let n = 0;
  while (n < a.length && n < b.length && a[a.length - 1 - n] === b[b.length - 1 - n]) n++;
  return a.slice(a.length - n);
}
