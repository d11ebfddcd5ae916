// Which tokens of a rendered conversation are the assistant's: by {% generation %} marks as in Transformers, else by comparing renderings.
import { LowrankError } from "../errors.ts";
import { type ChatMessage, type ChatTemplate, type RenderOptions, renderChat, renderSource, sourceFor } from "./template.ts";
import { makeStreamDecoder, type Tokenizer } from "./tokenizer.ts";
import { commonPrefix, type Rendering, type Span, startOf, type Turns, turnSpans, turnsOf } from "./turns.ts";

// Unicode non-characters, which no text for interchange holds.
const OPEN = "\uFDD0";
const CLOSE = "\uFDD1";
const MARK = /(?:^[ \t]*)?\{%(-?)\s*(end)?generation\s*(-?)%\}\n?/gm;

/**
 * The text of a conversation and where the assistant's turns are in it (or only the last), each with its end-of-turn token.
 *
 * A template with {% generation %} marks says so itself; the last turn is then what is marked behind the messages before it.
 * For others, `turnSpans` finds them.
 * @throws LowrankError `template/marks` if the marks cannot be followed, `template/unstable` if the renderings cannot be
 * reconciled, or what `renderChat` throws.
 */
export function renderWithMask(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  { turns = "every", ...options }: Omit<RenderOptions, "addGenerationPrompt"> & { turns?: Turns } = {},
): { text: string; spans: Span[] } {
  const text = renderChat(template, messages, options);
  if (/[\uFDD0\uFDD1]/.test(text)) throw badMarks(template, "text without the characters U+FDD0 and U+FDD1", "one of them");
  const source = sourceFor(template, options);
  const marked = source.replace(
    MARK,
    (_, left: string, end: string | undefined, right: string) => `{{${left}'${end ? CLOSE : OPEN}'${right}}}`,
  );
  const rendering = { template, messages, text, options };
  if (marked === source) return { text, spans: turnSpans(rendering, turns) };
  const spans = markedSpans(rendering, marked);
  if (turns === "every") return { text, spans };
  // The last turn may have several: those behind the messages before it.
  const [last] = turnsOf(rendering, "last");
  const start = last ? startOf(last) : text.length;
  return { text, spans: spans.filter(([from]) => from >= start) };
}

/** What is between marks where the template is rendered from its `marked` source. */
function markedSpans({ template, messages, text, options }: Rendering, marked: string): Span[] {
  const rendered = renderSource(template, marked, messages, options);
  const spans: Span[] = [];
  let plain = "";
  let start = -1;
  for (const part of rendered.split(/([\uFDD0\uFDD1])/)) {
    if (part === OPEN && start < 0) start = plain.length;
    else if (part === CLOSE && start >= 0) {
      if (plain.length > start) spans.push([start, plain.length]);
      start = -1;
    } else plain += part;
  }
  if (plain === text && start < 0) return spans;
  const got = plain !== text ? "another text with the marks than without" : "a mark that is not closed";
  throw badMarks(template, "marks in pairs, around text that is output as it is", got);
}

const badMarks = (template: ChatTemplate, expected: string, got: string): LowrankError =>
  new LowrankError("template/marks", "the assistant's turns cannot be marked", {
    subject: template.file,
    expected,
    got,
    next: "check the template's {% generation %} … {% endgeneration %} blocks and the record's text",
  });

/**
 * Tokens of `text`, and for each whether it is in one of `spans` (ascending, not overlapping).
 *
 * The ids are always those of the whole text. Where its tokens begin and end is found in one of three ways:
 * 1. The pieces between the spans' ends, encoded alone, give the same ids: the usual case, with special tokens around turns.
 * 2. The ids decode to exactly the text: each token's place is what it decodes to. One that lies across a span's border
 *    counts as inside, as in Transformers.
 * 3. Otherwise (SentencePiece adds spaces) a border is after the first ids that the text up to it has in common with the
 *    whole. A token across a span's start counts as inside, one across its end as outside.
 */
export function encodeSpans(tokenizer: Tokenizer, text: string, spans: readonly Span[]): { ids: Int32Array; inside: Uint8Array } {
  const encode = (piece: string) => tokenizer.encode(piece, { addSpecialTokens: false });
  const ids = encode(text);
  const inside = new Uint8Array(ids.length);
  const cuts = spans.flat();
  const pieces = [...cuts, text.length].map((cut, i) => encode(text.slice(cuts[i - 1] ?? 0, cut)));
  const joined = pieces.flatMap((piece) => [...piece]);
  if (joined.length === ids.length && commonPrefix(joined, ids) === ids.length) {
    inside.set(pieces.flatMap((piece, i) => Array<number>(piece.length).fill(i % 2)));
    return { ids, inside };
  }
  const places = decodedPlaces(tokenizer, text, ids);
  if (places !== undefined) {
    for (const [i, [from, to]] of places.entries()) {
      if (spans.some(([start, end]) => from < end && to > start)) inside[i] = 1;
    }
    return { ids, inside };
  }
  for (const [start, end] of spans) {
    inside.fill(1, commonPrefix(encode(text.slice(0, start)), ids), commonPrefix(encode(text.slice(0, end)), ids));
  }
  return { ids, inside };
}

/** The part of `text` that each token decodes to, if together they decode to it; a token inside a character has all of it. */
function decodedPlaces(tokenizer: Tokenizer, text: string, ids: Int32Array): Span[] | undefined {
  const decoder = makeStreamDecoder(tokenizer, { skipSpecialTokens: false });
  const deltas = Array.from(ids, (id) => decoder.push(id));
  if (deltas.join("") + decoder.flush() !== text) return undefined;
  let at = 0;
  const places = deltas.map(({ length }): Span => {
    at += length;
    return [at - length, at];
  });
  for (let i = places.length - 1, end = text.length; i >= 0; i--) {
    if (deltas[i] === "") places[i]![1] = end;
    else end = places[i]![1];
  }
  return places;
}
