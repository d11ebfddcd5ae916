// CSV (RFC 4180) and tab-separated values; the first line names the columns, and says what stands between fields.
import { parse as parseCsv } from "csv-parse/browser/esm/sync";
import { LowrankError } from "../../errors.ts";
import { type Block, blocks, countNewlines, type Row, type Source } from "./blocks.ts";

export const MAX_CSV_COLUMNS = 10_000;

/** What may stand between fields: the first of them that the first line has, outside quotes. */
const COMMA_FIRST = [",", "\t", ";"];
const TAB_FIRST = ["\t", ",", ";"];

export const commaSeparated = (source: Source): AsyncGenerator<Row> => separated(source, COMMA_FIRST);
export const tabSeparated = (source: Source): AsyncGenerator<Row> => separated(source, TAB_FIRST);

async function* separated(source: Source, delimiters: readonly string[]): AsyncGenerator<Row> {
  const { path } = source;
  let columns: string[] | undefined;
  let delimiter = delimiters[0]!;
  for await (const block of blocks(source, lastRecordEnd)) {
    if (columns === undefined) delimiter = delimiterOf(block, delimiters, path);
    for (const { fields, line } of parseBlock(block, delimiter, path)) {
      const where = `${path}, line ${line}`;
      if (columns === undefined) {
        columns = fields;
        const twice = columns.find((name, i) => columns!.indexOf(name) !== i);
        if (columns.length > MAX_CSV_COLUMNS || twice !== undefined) {
          throw new LowrankError("data/csv", "there are too many columns or duplicate names", {
            subject: where,
            expected: `at most ${MAX_CSV_COLUMNS} columns, each with a name of its own`,
            got: twice === undefined ? `${columns.length} columns` : `${JSON.stringify(twice)} twice`,
            next: "give each column a name in the first line",
          });
        }
        continue;
      }
      if (fields.length !== columns.length) {
        throw new LowrankError("data/csv", "the record has another number of fields than there are columns", {
          subject: where,
          expected: `${columns.length} fields: ${columns.slice(0, 20).join(", ")}`,
          got: `${fields.length}`,
          next: `put fields that hold a ${delimiter === "\t" ? "tab" : `"${delimiter}"`} or a line break in double quotes, with "" for a quote`,
        });
      }
      yield { fields: new Map(columns.map((name, i) => [name, fields[i]])), place: `line ${line}` };
    }
  }
}

function delimiterOf({ text }: Block, delimiters: readonly string[], path: string): string {
  const [header = ""] = /^(?:[^"\n]|"[^"]*")*/.exec(text.replace(/^\s+/, "")) ?? [];
  if (/\r(?!\n)/.test(header) && !text.includes("\n")) {
    throw new LowrankError("data/csv", "the lines end with carriage returns alone", {
      subject: path,
      expected: "line feeds, with or without carriage returns before them",
      got: "carriage returns only",
      next: "convert the file, as in: tr '\\r' '\\n' < OLD > NEW",
    });
  }
  const bare = header.replace(/"[^"]*"/g, "");
  return delimiters.find((delimiter) => bare.includes(delimiter)) ?? delimiters[0]!;
}

/** The records of a block, each with the line it starts at (csv-parse's own count is off after CRLF inside quotes). */
function parseBlock({ bytes, line }: Block, delimiter: string, path: string): { fields: string[]; line: number }[] {
  const options = { delimiter, relax_column_count: true, skip_empty_lines: true, record_delimiter: ["\r\n", "\n"], info: true };
  try {
    const parsed = parseCsv(bytes, options) as unknown as { record: string[]; info: { bytes: number } }[];
    let end = 0;
    let next = line;
    return parsed.map(({ record, info }) => {
      next += countNewlines(bytes.subarray(end, info.bytes));
      end = info.bytes;
      const terminator = bytes[end - 1] === 0x0a ? 1 : 0;
      return { fields: record, line: next - terminator - record.reduce((n, field) => n + field.split("\n").length - 1, 0) };
    });
  } catch (cause) {
    // `bytes` of a CsvError is where the last good record ends.
    let { message, bytes: at = 0 } = cause as Error & { bytes?: number };
    while (bytes[at] === 0x0a || bytes[at] === 0x0d) at++;
    throw new LowrankError("data/csv", "the record cannot be read", {
      subject: `${path}, line ${line + countNewlines(bytes.subarray(0, at))}`,
      expected: `fields with ${JSON.stringify(delimiter)} between them, those with quotes, delimiters or line breaks in double quotes`,
      got: message.replace(/ at line \d+/, "").replace(/ on line \d+/, ""),
      next: 'write a quote inside a field as "" and close every quote',
      cause,
    });
  }
}

/** After the last line break outside quotes. A quote within quotes is written twice, so counting them is enough. */
function lastRecordEnd(bytes: Uint8Array): number {
  let end = 0;
  let quoted = false;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] === 0x22) quoted = !quoted;
    else if (bytes[i] === 0x0a && !quoted) end = i + 1;
  }
  return end;
}
