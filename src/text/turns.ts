// Where the assistant's turns are in a rendered conversation, found by comparing renderings: for templates without {% generation %} marks.
import { LowrankError } from "../errors.ts";
import { textOf } from "./parts.ts";
import { type ChatMessage, type ChatTemplate, type RenderOptions, renderChat } from "./template.ts";

/** [start, end) in UTF-16 units of a text. */
export type Span = [start: number, end: number];

/** Stands for a message's content. A Unicode non-character, which no text for interchange holds. */
const SENTINEL = "\uFDD0";

/** Which turns of the assistant: every one, or the last. */
export type Turns = "every" | "last";

/** A conversation, and the text that the template makes of it with these options. */
export interface Rendering {
  template: ChatTemplate;
  messages: readonly ChatMessage[];
  text: string;
  options: RenderOptions;
}

/** One turn of a conversation. */
interface Turn extends Rendering {
  /** Of the assistant's message. */
  index: number;
  render: (messages: readonly ChatMessage[], addGenerationPrompt?: boolean) => string;
}

/** The turns that are asked for, in order. */
export function turnsOf(rendering: Rendering, which: Turns): Turn[] {
  const { template, messages, options } = rendering;
  const render: Turn["render"] = (list, addGenerationPrompt = false) =>
    renderChat(template, list, { ...options, addGenerationPrompt });
  const all = messages.flatMap(({ role }, index) => (role === "assistant" ? [{ ...rendering, index, render }] : []));
  return which === "last" ? all.slice(-1) : all;
}

/**
 * Where the assistant's turns are in a rendering: ascending, not overlapping.
 *
 * A turn begins after what generation is given: the messages before it, rendered with a generation prompt. It ends after
 * the end-of-turn token: what follows the content both when the conversation ends there and when it goes on. Where the
 * content is, is seen by rendering a sentinel in its place, so trimming, moved system messages and dropped thoughts do no harm.
 * White space after the end-of-turn token is not part of the turn, since generation stops before it; where no token ends
 * the turn, white space is what ends it.
 * @throws LowrankError `template/unstable` if the renderings cannot be reconciled, or what `renderChat` throws.
 */
export function turnSpans(rendering: Rendering, which: Turns): Span[] {
  const spans: Span[] = [];
  let done = 0;
  for (const turn of turnsOf(rendering, which)) {
    const start = startOf(turn);
    const end = endOf(turn, start);
    if (start < done) throw unstable(turn, "turns one after another", "a turn that begins inside the one before");
    if (holdsNext(turn, end))
      throw unstable(turn, "turns that hold nothing but the assistant's", "the next message inside the turn");
    done = end;
    if (end > start) spans.push([start, end]);
  }
  return spans;
}

/** Where the turn begins in the text: after what generation would be given. */
export function startOf(turn: Turn): number {
  const { messages, text, index, render } = turn;
  const before = messages.slice(0, index);
  const asked = attempt(() => render(before, true));
  if (asked !== undefined && text.startsWith(asked)) return asked.length;
  // The beginning changes with what follows (a system message that moves to the last question): what comes after the message
  // before the turn decides.
  const prompt = behind(turn, before, index - 1, true);
  const rest = behind(turn, messages, index - 1);
  if (prompt === undefined || rest === undefined || !text.endsWith(rest)) {
    throw unstable(
      turn,
      "a conversation that begins as its first messages with a generation prompt",
      asked === undefined
        ? "a template that does not render the messages before it alone"
        : differing(asked, text, "with the generation prompt", "in the whole conversation"),
    );
  }
  // Templates of reasoning models open a thought for generation (or an empty one), and leave it out of what was said before.
  const prompts = [prompt, prompt.replace(/<think>\s*(?:<\/think>\s*)?$/, "")];
  // Some write other white space before an answer than before generation.
  const header = prompts.find((given) => rest.startsWith(given)) ?? prompt.slice(0, commonPrefix(prompt, rest));
  if (header.length < prompt.trimEnd().length && !prompts.includes(header)) {
    throw unstable(
      turn,
      "a turn that begins with the generation prompt",
      differing(prompt, rest, "generation is given", "the conversation has"),
    );
  }
  return text.length - rest.length + header.length;
}

/** After the end-of-turn token of the turn that begins at `start`. */
function endOf(turn: Turn, start: number): number {
  const { messages, text, index, render } = turn;
  const last = index === messages.length - 1;
  const upTo = messages.slice(0, index + 1);
  const content = contentEnd(turn, start);
  if (content === undefined) {
    // Nothing is written in the content's place (calls of tools): the turn is what comes after `start`.
    const head = text.slice(0, start);
    const alone = last ? text : render(upTo);
    const longer = last ? attempt(() => render([...upTo, QUESTION])) : text;
    const own = alone.slice(start);
    const length = endOfTurn(own, longer?.startsWith(head) ? longer.slice(start) : own, last, () => undefined);
    if (alone.startsWith(head) && length > 0) return start + length;
    throw unstable(
      turn,
      "a turn whose text is the same whatever follows",
      differing(alone, text, "at the end of the conversation", "in the whole conversation"),
    );
  }
  const { end, rest } = content;
  const own = last ? rest : behind(turn, upTo, index);
  const next = last ? behind(turn, [...upTo, QUESTION], index) : rest;
  const afterQuestion = () => behind(turn, messages.slice(0, index), index - 1, true);
  return end + endOfTurn(own ?? rest, next ?? rest, last, afterQuestion);
}

/** A question that could follow. */
const QUESTION: ChatMessage = { role: "user", content: "text" };

/** Whether the message after the turn (a tool's result) is written before the turn's end. */
function holdsNext(turn: Turn, end: number): boolean {
  const { messages, text, index } = turn;
  const next = messages[index + 1];
  if (next === undefined || next.role === "user") return false;
  const rest = behind(turn, messages, index + 1);
  return rest !== undefined && text.endsWith(rest) && text.length - rest.length <= end;
}

/** Where the content of the turn ends in the text, and what the template writes after it; undefined if it writes no content. */
function contentEnd(turn: Turn, start: number): { end: number; rest: string } | undefined {
  const { messages, text, index, render } = turn;
  const { content } = messages[index]!;
  const empty = (content ?? "") === "" || textOf(content).trim() === "";
  const rendered = empty ? attempt(() => render(marked(messages, index))) : render(marked(messages, index));
  const parts = (rendered ?? "").split(SENTINEL);
  if (parts.length === 1) return undefined;
  const rest = parts.at(-1)!;
  const end = text.length - rest.length;
  const there = text.endsWith(rest) && (end >= start || (empty && text.slice(end, start).trim() === ""));
  if (parts.length === 2 && there) return { end, rest };
  if (empty) return undefined;
  const expected = "the turn's content, once, after the generation prompt";
  if (parts.length > 2) throw unstable(turn, expected, `its content ${parts.length - 1} times`);
  throw unstable(turn, expected, end < start ? "its content before that" : "another end of the text than with another content");
}

/**
 * How much of `own`, what follows the content where the conversation ends, is the end of the turn. `next` is what follows it
 * where the conversation goes on, `last` says which of the two is in the text; `question` gives what follows a question.
 */
function endOfTurn(own: string, next: string, last: boolean, question: () => string | undefined): number {
  const both = wholeMarkers(own, next);
  if (both.trim() !== "") return both.trimEnd().length;
  if (own.trim() === "") return both.length;
  // The turn ends otherwise at the end of a conversation than inside it.
  if (last) return (FIRST_MARKER.exec(own)?.[0] ?? own.trimEnd()).length;
  return FIRST_MARKER.exec(wholeMarkers(next, question() ?? ""))?.[0].length ?? 0;
}

const FIRST_MARKER = /^\s*<[^<>\s]+>/;

/** The common beginning of two texts, without a marker such as <|user|> or [INST] that it breaks off in, or plain text where they part. */
function wholeMarkers(a: string, b: string): string {
  const both = a.slice(0, commonPrefix(a, b));
  if (both === a || both === b) return both;
  return /^[\s\S]*[>\]]\s*|^\s*/.exec(both.replace(/(?:<[^<>]*|\[[^[\]]*)$/, ""))![0];
}

/** The messages with the sentinel for the content of one, in the form that the content has. */
const marked = (messages: readonly ChatMessage[], index: number): ChatMessage[] =>
  messages.map((message, i) => {
    if (i !== index) return message;
    const isList = Array.isArray(message.content);
    return { ...message, content: isList ? [{ type: "text", text: SENTINEL }] : SENTINEL };
  });

/** What the template writes behind the content of message `at` of `list`, if it writes that content. */
function behind({ render }: Turn, list: readonly ChatMessage[], at: number, addGenerationPrompt = false): string | undefined {
  const [, ...rest] = attempt(() => render(marked(list, at), addGenerationPrompt))?.split(SENTINEL) ?? [];
  return rest.at(-1);
}

/** A rendering that the template may refuse, since nobody wrote these messages. */
function attempt(render: () => string): string | undefined {
  try {
    return render();
  } catch (error) {
    if (error instanceof LowrankError && ["template/refused", "template/failed"].includes(error.code)) return undefined;
    throw error;
  }
}

/** Where two renderings differ, for an error. */
function differing(a: string, b: string, inA: string, inB: string): string {
  const at = commonPrefix(a, b);
  const part = (text: string) => JSON.stringify(text.slice(Math.max(0, at - 20), at + 40));
  return `${inA} ${part(a)}, ${inB} ${part(b)}`;
}

const unstable = ({ template, index }: Turn, expected: string, got: string): LowrankError =>
  new LowrankError("template/unstable", `the assistant's turn cannot be located at message ${index}`, {
    subject: template.file,
    expected,
    got,
    next: "use a template with {% generation %} marks, end each record with its only assistant turn, or train on all tokens",
  });

/** How many items, or UTF-16 units, two lists or texts begin with in common. */
export function commonPrefix<T>(a: ArrayLike<T>, b: ArrayLike<T>): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
