// JSON Lines (jsonlines.org): one JSON object a line.
import { LowrankError } from "../../errors.ts";
import { isObject } from "../../formats/json.ts";
import { blocks, lastNewline, type Row, type Source, typeName } from "./blocks.ts";

/** Blank lines are skipped. */
export async function* jsonLines(source: Source): AsyncGenerator<Row> {
  for await (const block of blocks(source, lastNewline)) {
    let line = block.line;
    for (const text of block.text.split("\n")) {
      const place = `line ${line++}`;
      if (text.trim() === "") continue;
      yield { fields: parseObject(text, `${source.path}, ${place}`, "one JSON object a line"), place };
    }
  }
}

/** The members of a JSON object. */
export function parseObject(text: string, subject: string, expected: string): Map<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LowrankError("data/json", "the record is not JSON", {
      subject,
      expected,
      got: (cause as Error).message,
      next: "check that each record is one JSON object: in a .jsonl file each on a line of its own, without a comma after it",
      cause,
    });
  }
  if (isObject(value)) return new Map(Object.entries(value));
  throw new LowrankError("data/json", "the record is no object", {
    subject,
    expected,
    got: typeName(value),
    next: "write each record as an object, with its texts under keys",
  });
}
