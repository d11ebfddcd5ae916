// Parquet (github.com/apache/parquet-format) by hyparquet, a page of each column at a time, within the limits of parquet-checks.
import {
  type ColumnChunk,
  type FileMetaData,
  type ParquetParsers,
  parquetMetadata,
  parquetSchema,
  type SchemaTree,
} from "hyparquet";
import { assembleNested } from "hyparquet/src/assemble.js";
import { parquetHeader, readPage } from "hyparquet/src/column.js";
import { convert, DEFAULT_PARSERS } from "hyparquet/src/convert.js";
import { getMaxDefinitionLevel, getMaxRepetitionLevel, getTreePath, isFlatColumn } from "hyparquet/src/schema.js";
import { LowrankError } from "../../errors.ts";
import { type ChooseColumns, concat, MAX_RECORD_BYTES, type Row, readAt, type Source, tooLong } from "./blocks.ts";
import { decompress } from "./decompress.ts";
import {
  Broken,
  checkDataPage,
  checkPageHeader,
  checkSchema,
  checkThrift,
  MAX_FOOTER_BYTES,
  MAX_PARQUET_ROWS,
} from "./parquet-checks.ts";

/** Bytes of a column read at a time, if its page is not larger. */
const WINDOW_BYTES = 1 << 18;
/** Rows put together at a time. */
const ROWS_AT_ONCE = 1024;
/** The parts of a message that are read; lists of messages may have others, of any type. */
const MESSAGE_PARTS = ["role", "content", "from", "value"];
/** What lists can have beside texts: the numbers of classes. */
const INTEGERS = ["INT32", "INT64"];

export async function* parquetRows(source: Source, choose: ChooseColumns): AsyncGenerator<Row> {
  try {
    yield* rows(source, choose);
  } catch (cause) {
    throw cause instanceof LowrankError ? cause : unreadable(source, cause as Error);
  }
}

/** Throws, beside LowrankError, what hyparquet and the checks throw. */
async function* rows(source: Source, choose: ChooseColumns): AsyncGenerator<Row> {
  const metadata = await readMetadata(source);
  const tree = parquetSchema(metadata);
  const names = choose(tree.children.map(({ element }) => element.name));
  const columns = names.map((name) => messageParts(tree.children.find(({ element }) => element.name === name)!));
  for (const column of columns) checkTypes(source, column);
  let row = 0;
  for (const group of metadata.row_groups) {
    const leaves = columns.map((column) => leavesOf(column).map((leaf) => openLeaf(source, tree, leaf, group.columns)));
    const first = row;
    for (;;) {
      const batch = await nextRows(source, columns, leaves);
      const count = batch[0]?.length ?? 0;
      if (count === 0) break;
      for (let i = 0; i < count; i++) {
        yield { fields: new Map(names.map((name, c) => [name, numbered(batch[c]![i] ?? null)])), place: `row ${++row}` };
      }
    }
    if (row - first !== Number(group.num_rows)) throw new Broken(`${row - first} rows in a group of ${group.num_rows}`);
  }
}

/** 64-bit integers as numbers, in lists too. */
const numbered = (value: unknown): unknown =>
  typeof value === "bigint" ? Number(value) : Array.isArray(value) ? value.map(numbered) : value;

const unreadable = ({ path }: Source, cause: Error): LowrankError =>
  new LowrankError("data/parquet", "the Parquet file cannot be read", {
    subject: path,
    expected: "a file as pyarrow, pandas, Polars, DuckDB or Spark write it",
    got: cause.message,
    next: "fetch the file again; if it is whole, write it again as JSON lines (pandas: to_json(lines=True, orient='records'))",
    cause,
  });

async function readMetadata(source: Source): Promise<FileMetaData> {
  const { size } = source;
  if (size < 12) throw new Broken(`${size} bytes, fewer than any Parquet file has`);
  const tail = await readAt(source, size - 8, 8);
  source.done = 0;
  const magic = new TextDecoder().decode(tail.subarray(4));
  if (magic === "PARE") throw new Broken("an encrypted file");
  if (magic !== "PAR1") throw new Broken("no PAR1 at its end, so it is cut off or no Parquet file");
  const length = new DataView(tail.buffer, tail.byteOffset).getUint32(0, true);
  if (length > Math.min(size - 12, MAX_FOOTER_BYTES)) throw new Broken(`metadata of ${length} bytes in a file of ${size}`);
  const footer = await readAt(source, size - 8 - length, length + 8);
  source.done = 0;
  checkThrift(footer.subarray(0, length), 0);
  const metadata = parquetMetadata(footer.slice().buffer, { geoparquet: false });
  checkSchema(metadata.schema);
  const rows = metadata.row_groups.reduce((sum, { num_rows }) => sum + Number(num_rows), 0);
  if (!(rows <= MAX_PARQUET_ROWS)) throw new Broken(`${rows} rows, ${MAX_PARQUET_ROWS} are allowed`);
  return metadata;
}

/** A column without the parts of its messages that are not read. */
function messageParts(column: SchemaTree): SchemaTree {
  const parts = column.children.filter(({ element }) => MESSAGE_PARTS.includes(element.name));
  return { ...column, children: parts.length > 0 ? parts : column.children.map(messageParts) };
}

const leavesOf = (column: SchemaTree): SchemaTree[] =>
  column.children.length === 0 ? [column] : column.children.flatMap(leavesOf);

function checkTypes({ path }: Source, column: SchemaTree): void {
  const isRead = ({ path: [, ...inner], element: { type, name } }: SchemaTree) =>
    type === "BYTE_ARRAY" || (inner.length > 0 && !MESSAGE_PARTS.includes(name) && INTEGERS.includes(type!));
  const other = leavesOf(column).find((leaf) => !isRead(leaf));
  if (other === undefined) return;
  throw new LowrankError("data/value", "the column holds no text", {
    subject: `${path}, column ${other.path.join(".")}`,
    expected: "texts, or a list of messages {role, content}, of texts or of whole numbers",
    got: other.element.logical_type?.type ?? other.element.type ?? "no type",
    next: "write the column as text, or name another one",
  });
}

/** One physical column of a row group on its way through the file. */
interface Leaf {
  tree: SchemaTree;
  name: string;
  path: SchemaTree[];
  codec: string;
  at: number;
  end: number;
  window: { at: number; bytes: Uint8Array };
  dictionary: ArrayLike<unknown> | undefined;
  /** Decoded rows, and how many of them are used. The last one may continue in the next page. */
  rows: unknown[];
  taken: number;
}

function openLeaf({ path: file, size }: Source, root: SchemaTree, tree: SchemaTree, chunks: readonly ColumnChunk[]): Leaf {
  const name = tree.path.join(".");
  const chunk = chunks.find(({ meta_data }) => meta_data?.path_in_schema.join(".") === name);
  const meta = chunk?.meta_data;
  if (meta === undefined || chunk?.file_path) throw new Broken(`a row group without the column ${name} (in ${file})`);
  if (chunk?.crypto_metadata) throw new Broken(`an encrypted column, ${name}`);
  const at = Number(meta.dictionary_page_offset || meta.data_page_offset);
  const end = at + Number(meta.total_compressed_size);
  if (!(at >= 4 && end >= at && end <= size)) throw new Broken(`the column ${name} at ${at} to ${end} of ${size} bytes`);
  const window = { at: 0, bytes: new Uint8Array() };
  const path = getTreePath(root, tree.path);
  return { tree, name, path, codec: meta.codec, at, end, window, dictionary: undefined, rows: [], taken: 0 };
}

/** Up to `ROWS_AT_ONCE` rows of each column; none at the end of the row group. */
async function nextRows(source: Source, columns: readonly SchemaTree[], leaves: readonly Leaf[][]): Promise<unknown[][]> {
  const all = leaves.flat();
  for (const leaf of all) while (whole(leaf) <= 0 && leaf.at < leaf.end) await nextPage(source, leaf);
  const counts = all.map(whole);
  const count = Math.min(ROWS_AT_ONCE, ...counts);
  if (count === 0 && counts.some((left) => left > 0)) throw new Broken("columns of different numbers of rows");
  const parsers = parsersOf(source, "messages");
  return columns.map((column, c) => {
    const parts = new Map(leaves[c]!.map(({ name, rows, taken }) => [name, rows.slice(taken, taken + count)]));
    for (const leaf of leaves[c]!) leaf.taken += count;
    if (column.children.length > 0 && count > 0) assembleNested(parts, column, parsers);
    return parts.get(column.path.join("."))!;
  });
}

/** Rows that no further page adds to. */
const whole = ({ rows, taken, at, end, path }: Leaf): number =>
  Math.max(0, rows.length - taken - (at < end && !isFlatColumn(path) ? 1 : 0));

/** Decodes the next page behind the rows that are not taken yet. */
async function nextPage(source: Source, leaf: Leaf): Promise<void> {
  const head = await bytesAt(source, leaf, Math.min(WINDOW_BYTES, leaf.end - leaf.at));
  const headLength = checkThrift(head, 0);
  const header = parquetHeader({ view: viewOf(head), offset: 0 });
  leaf.at += headLength;
  checkPageHeader(header, leaf.end - leaf.at);
  const stored = await bytesAt(source, leaf, header.compressed_page_size);
  leaf.at += header.compressed_page_size;

  const v2 = header.data_page_header_v2;
  const levels = v2 ? v2.repetition_levels_byte_length + v2.definition_levels_byte_length : 0;
  const isPacked = leaf.codec !== "UNCOMPRESSED" && v2?.is_compressed !== false;
  const page = isPacked ? await unpack(stored, levels, header.uncompressed_page_size, leaf.codec) : stored;
  if (page.length !== header.uncompressed_page_size) throw new Broken("a page of another size than its header states");
  const { element } = leaf.tree;
  const decoder = {
    pathInSchema: leaf.tree.path,
    type: element.type!,
    element,
    schemaPath: leaf.path,
    codec: "UNCOMPRESSED" as const,
    parsers: parsersOf(source, leaf.name),
    utf8: true,
  };
  if (header.type !== "DICTIONARY_PAGE")
    checkDataPage(page, header, getMaxRepetitionLevel(leaf.path), getMaxDefinitionLevel(leaf.path));
  const plainV2 = v2 && { data_page_header_v2: { ...v2, is_compressed: false } };
  const plain = { ...header, compressed_page_size: page.length, ...plainV2 };
  leaf.rows = leaf.rows.slice(leaf.taken);
  leaf.taken = 0;
  // A list may go on in the next page, behind what the last one gave; the values of a flat column are an array of their own.
  const before = isFlatColumn(leaf.path) || leaf.rows.length === 0 ? undefined : leaf.rows;
  const { data } = readPage({ view: viewOf(page), offset: 0 }, plain, decoder, leaf.dictionary as never, before, 0);
  if (data === undefined) throw new Broken("a page without values");
  if (header.type === "DICTIONARY_PAGE") leaf.dictionary = convert(data, decoder);
  else leaf.rows = before === data ? before : leaf.rows.concat(Array.from(data as ArrayLike<unknown>));
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** `length` bytes from where the leaf is, read in windows. */
async function bytesAt(source: Source, leaf: Leaf, length: number): Promise<Uint8Array> {
  const { window, at, end } = leaf;
  if (at < window.at || at + length > window.at + window.bytes.length) {
    leaf.window = { at, bytes: await readAt(source, at, Math.max(length, Math.min(WINDOW_BYTES, end - at))) };
  }
  return leaf.window.bytes.subarray(at - leaf.window.at, at - leaf.window.at + length);
}

/** A page decompressed behind its levels, which never are compressed. */
async function unpack(stored: Uint8Array, levels: number, size: number, codec: string): Promise<Uint8Array> {
  const packed = stored.subarray(levels);
  const unpacked = await decompress(packed, size - levels, codec);
  return levels === 0 ? unpacked : concat([stored.subarray(0, levels), unpacked]);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function parsersOf({ path }: Source, column: string): ParquetParsers {
  const subject = `${path}, column ${column}`;
  const stringFromBytes = (bytes: Uint8Array | undefined) => {
    if (bytes === undefined) return undefined;
    if (bytes.length > MAX_RECORD_BYTES) throw tooLong(subject, bytes.length);
    try {
      return utf8.decode(bytes);
    } catch (cause) {
      throw new LowrankError("data/encoding", "a text is not UTF-8", {
        subject,
        expected: "UTF-8",
        got: "bytes that are not",
        next: "write the column as text (pyarrow: string), not as bytes",
        cause,
      });
    }
  };
  return { ...DEFAULT_PARSERS, stringFromBytes: stringFromBytes as ParquetParsers["stringFromBytes"] };
}
