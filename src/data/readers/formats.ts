// The formats of data files: one table, by the ending of the name, and by what a file begins with where the ending lies.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import type { RecordFormats } from "../records.ts";
import type { RowReader } from "./blocks.ts";
import { commaSeparated, tabSeparated } from "./csv.ts";
import { checkParts, classFolders, METADATA_NAME, noMetadata, notFromFolder } from "./folder.ts";
import { jsonObjects } from "./json.ts";
import { jsonLines } from "./jsonl.ts";
import { textRecords } from "./text.ts";

export interface Format {
  name: string;
  endings: readonly string[];
  rows: RowReader;
}

const jsonl: Format = { name: "JSON lines", endings: ["jsonl", "ndjson"], rows: jsonLines };
const json: Format = { name: "JSON", endings: ["json"], rows: jsonObjects };
const csv: Format = { name: "CSV", endings: ["csv"], rows: commaSeparated };
const tsv: Format = { name: "TSV", endings: ["tsv", "tab"], rows: tabSeparated };
const parquet: Format = {
  name: "Parquet",
  endings: ["parquet"],
  // Its libraries are a tenth of all modules of a run: they are loaded when such a file is read.
  rows: async function* (...given) {
    yield* (await import("./parquet.ts")).parquetRows(...given);
  },
};
const text: Format = { name: "text", endings: ["txt", "md"], rows: textRecords };

const classes: Format = { name: "a folder for each class", endings: [], rows: classFolders };

export const formats: readonly Format[] = [jsonl, json, csv, tsv, parquet, text];

/** Bytes that are looked at. */
const SNIFF_BYTES = 4096;

const startsWith = (head: Uint8Array, ...bytes: number[]) => bytes.every((byte, i) => head[i] === byte);

/** Files that may be mistaken for data files: what they are, and what to do. */
const others: [is: (head: Uint8Array, text: string) => boolean, what: string, next: string][] = [
  [(head) => startsWith(head, 0x1f, 0x8b), "a gzip file", "unpack it, as in: gunzip FILE.gz"],
  [(head) => startsWith(head, 0x28, 0xb5, 0x2f, 0xfd), "a zstd file", "unpack it, as in: zstd -d FILE.zst"],
  [(head) => startsWith(head, 0x42, 0x5a, 0x68), "a bzip2 file", "unpack it, as in: bunzip2 FILE.bz2"],
  [(head) => startsWith(head, 0xfd, 0x37, 0x7a, 0x58, 0x5a), "an xz file", "unpack it, as in: unxz FILE.xz"],
  [(head) => startsWith(head, 0x50, 0x4b, 3, 4), "a zip file, as spreadsheets are too", "unpack it; save a spreadsheet as CSV"],
  [(_, text) => text.startsWith("version https://git-lfs"), "a pointer of Git LFS", "fetch the file itself, as in: git lfs pull"],
  [(_, text) => /^\s*<(!doctype|html)/i.test(text), "a web page", "download the file itself"],
];

/** What data are read from: the file, or the folder of images, that paths in them are relative to `folder`, and the format. */
export interface Opened {
  path: string;
  folder: string | null;
  format: Format;
  /** The place of a record for messages. */
  where(place: string): string;
}

/** Opens a data file; where the kind of records can be read from a folder of images, such a folder too. */
export async function openData<R>(files: Files, given: string, sought: RecordFormats<R>): Promise<Opened> {
  if (!(await files.isFolder(given))) return openFile(files, given);
  if (sought.folder === undefined) throw notFromFolder(given);
  const folder = given.replace(/(?<=.)[\\/]+$/, "");
  if (await files.exists(`${folder}/${METADATA_NAME}`)) return openFile(files, `${folder}/${METADATA_NAME}`);
  await checkParts(files, folder);
  if (sought.folder === "metadata") {
    const { keys } = sought.candidates.find((one) => one.keys.includes("file_name")) ?? sought.candidates[0]!;
    throw noMetadata(folder, keys);
  }
  return { path: folder, folder, format: classes, where: (place) => `${folder}/${place}` };
}

const openFile = async (files: Files, path: string): Promise<Opened> => ({
  path,
  folder: /^(.*)[\\/]/.exec(path)?.[1] ?? null,
  format: await formatOf(files, path),
  where: (place) => `${path}, ${place}`,
});

/**
 * The format of a file. The ending says it, unless the content shows another: Parquet's magic bytes, or a first character
 * that no file of that ending begins with. A file without a known ending is recognized by its content.
 */
async function formatOf(files: Files, path: string): Promise<Format> {
  const size = await files.size(path);
  const bytes = await files.read(path, 0, Math.min(SNIFF_BYTES, size));
  const head = startsWith(bytes, 0xef, 0xbb, 0xbf) ? bytes.subarray(3) : bytes;
  const start = new TextDecoder().decode(head);
  const [, what, next] = others.find(([is]) => is(head, start)) ?? [];
  const ending = /\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? "";
  const named = formats.find(({ endings }) => endings.includes(ending));
  if (what !== undefined) {
    const expected = named ? `${named.name}, by its name` : `${formats.map(({ name }) => name).join(", ")}`;
    throw new LowrankError("data/format", "the file is not training data", { subject: path, expected, got: what, next });
  }
  const sniffed = sniff(start, named);
  if (sniffed !== undefined) return sniffed;
  throw new LowrankError("data/format", "the kind of data file is not known", {
    subject: path,
    expected: `a name that ends in ${formats.flatMap(({ endings }) => endings.map((name) => `.${name}`)).join(", ")}`,
    got: path.split("/").at(-1),
    next: "write one JSON object a line into a .jsonl file",
  });
}

function sniff(start: string, named: Format | undefined): Format | undefined {
  if (start.startsWith("PAR1")) return parquet;
  if (named === text) return text;
  const [first] = start.trimStart();
  if (first === "[") return named === csv || named === tsv ? (/^\s*\[\s*\{\s*"/.test(start) ? json : named) : json;
  if (first === "{" && named !== json && named !== jsonl) return /^\s*\{\s*"/.test(start) || !named ? jsonl : named;
  return named;
}
