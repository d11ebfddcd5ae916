// Plain text: whole paragraphs gathered into records of a length that a training example holds.
import { blocks, lastNewline, type Row, type Source } from "./blocks.ts";

/** Longest record of a text file, in characters: about 500 tokens of English, half of the default longest example. */
export const TEXT_RECORD_CHARS = 2000;

/**
 * The file as one long text, in records {text} of at most `TEXT_RECORD_CHARS`: as many whole paragraphs as fit, with the
 * blank lines between them. A paragraph that is longer is cut behind a line, or else behind a word.
 */
export async function* textRecords(source: Source): AsyncGenerator<Row> {
  /** The record at hand, and the line it starts at. */
  let record = "";
  let recordLine = 1;
  /** The paragraph at hand. */
  let paragraph = "";
  let paragraphLine = 1;
  const row = (text: string, line: number): Row => ({ fields: new Map([["text", text]]), place: `line ${line}` });

  /** Gives what has been gathered, if the paragraph does not fit behind it; then pieces of the paragraph until it fits `limit`. */
  function* make(limit: number): Generator<Row> {
    if (record !== "" && record.length + 2 + paragraph.length > TEXT_RECORD_CHARS) {
      yield row(record, recordLine);
      record = "";
    }
    while (paragraph.length > limit) {
      const cut = cutBefore(paragraph, TEXT_RECORD_CHARS);
      yield row(paragraph.slice(0, cut).trimEnd(), paragraphLine);
      paragraphLine += paragraph.slice(0, cut).split("\n").length - 1;
      paragraph = paragraph.slice(cut);
    }
  }

  function* endParagraph(): Generator<Row> {
    if (paragraph === "") return;
    yield* make(TEXT_RECORD_CHARS);
    if (record === "") recordLine = paragraphLine;
    record = record === "" ? paragraph : `${record}\n\n${paragraph}`;
    paragraph = "";
  }

  for await (const block of blocks(source, lastNewline)) {
    let { line } = block;
    const lines = block.text.split("\n");
    if (lines.at(-1) === "") lines.pop();
    for (const text of lines) {
      const content = text.trimEnd();
      if (content === "") yield* endParagraph();
      else {
        if (paragraph === "") paragraphLine = line;
        paragraph = paragraph === "" ? content : `${paragraph}\n${content}`;
        // A file without blank lines is one paragraph: it is cut as it grows.
        if (paragraph.length > 2 * TEXT_RECORD_CHARS) yield* make(2 * TEXT_RECORD_CHARS);
      }
      line++;
    }
  }
  yield* endParagraph();
  if (record !== "") yield row(record, recordLine);
}

/** Where to cut `text` so that at most `limit` characters are before: behind a line, a word, or between two characters. */
function cutBefore(text: string, limit: number): number {
  const head = text.slice(0, limit);
  const line = head.lastIndexOf("\n") + 1;
  if (line > limit / 2) return line;
  const word = head.lastIndexOf(" ") + 1;
  if (word > limit / 2) return word;
  return /[\ud800-\udbff]$/.test(head) ? limit - 1 : limit;
}
