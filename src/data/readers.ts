// Training records from a data file of any format in the table, a block at a time: a file of any size needs the memory of one block.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import type { LeftOut, Source } from "./readers/blocks.ts";
import { type Opened, openData } from "./readers/formats.ts";
import {
  type ColumnNames,
  type DataRecord,
  describe,
  formatOf,
  formatsFor,
  makeRecord,
  type NumberedRecord,
  type RecordFormat,
  type RecordFormats,
} from "./records.ts";

/** What a data file turned out to be. */
export interface Recognized {
  path: string;
  /** Its format and the spelling of its records, by their names in the tables. */
  format: string;
  spelling: string;
  /** The keys or columns that are read, and those beside them in the first record. */
  used: string[];
  ignored: string[];
  /** Of a folder for each class: what in it is no record. */
  leftOut?: LeftOut;
}

/** The records of a file. They can be iterated over once. */
export interface RecordFile<R = DataRecord> extends AsyncIterable<NumberedRecord<R>> {
  /** What the file is; null before the first record. */
  recognized(): Recognized | null;
  /** How much of the file has been read; of a folder for each class the size is not known, and 0. */
  progress(): { bytes: number; size: number };
  /** The place of a record in messages: with the file, or with the folder for each class in front. */
  where(place: string): string;
}

/** The records of a file for a language model (`readFormats`). */
export const readRecords = (files: Files, path: string, columns: ColumnNames = {}): RecordFile =>
  readFormats(files, path, formatsFor(columns));

/**
 * The records of a file, in order, of one kind and spelling throughout. A byte order mark and CRLF are accepted.
 * Iterating throws LowrankError `data/…` that names the line, row or record.
 */
export function readFormats<R>(files: Files, given: string, sought: RecordFormats<R>): RecordFile<R> {
  let source: Source | undefined;
  let opened: Opened | undefined;
  let recognized: Recognized | null = null;
  async function* records(): AsyncGenerator<NumberedRecord<R>> {
    opened = await openData(files, given, sought);
    const { path, folder, format, where } = opened;
    source = { files, path, size: path === folder ? 0 : await files.size(path), done: 0 };
    let first: { spelling: RecordFormat<R>; place: string } | undefined;
    /** The columns of a file that says them, of which only the chosen ones are in its rows. */
    let all: readonly string[] | undefined;
    const choose = (names: readonly string[]): string[] => {
      all = names;
      const { keys, optional } = formatOf(names, () => false, sought, path);
      return [...keys, ...optional.filter((name) => names.includes(name))];
    };
    for await (const row of format.rows(source, choose)) {
      const { fields, place } = row;
      const subject = where(place);
      const spelling = formatOf([...fields.keys()], (key) => fields.get(key) === null, sought, subject);
      if (first === undefined) {
        first = { spelling, place };
        const keys = [...spelling.keys, ...spelling.optional];
        const has = (key: string) => fields.has(key);
        const ignored = [...(all ?? fields.keys())].filter((key) => !keys.includes(key));
        recognized = { path, format: format.name, spelling: spelling.name, used: keys.filter(has), ignored };
      }
      if (spelling !== first.spelling) {
        throw new LowrankError("data/mixed", "the records are not all in one format", {
          subject,
          expected: `${describe(first.spelling.keys)}, as on ${first.place}`,
          got: describe(spelling.keys),
          next: "put each kind into a file of its own",
        });
      }
      yield { record: makeRecord(row, spelling, subject, folder), place };
    }
  }
  return {
    [Symbol.asyncIterator]: records,
    recognized: () => recognized && { ...recognized, ...(source?.leftOut && { leftOut: { ...source.leftOut } }) },
    progress: () => ({ bytes: source?.done ?? 0, size: source?.size ?? 0 }),
    where: (place) => (opened ? opened.where(place) : `${given}, ${place}`),
  };
}
