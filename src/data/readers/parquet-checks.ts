// What a Parquet file must keep to before hyparquet decodes it: its decoder trusts counts, and allocates and loops by them.
// Follows the Thrift compact protocol and the RLE / bit-packing hybrid of the Parquet format (github.com/apache/parquet-format).
import type { PageHeader, SchemaElement } from "hyparquet";

/** Metadata at the end of the file; a file of 10,000 row groups has about 5 MB. */
export const MAX_FOOTER_BYTES = 32 << 20;
/** Columns and groups of columns. */
export const MAX_SCHEMA_ELEMENTS = 10_000;
/** Groups within groups; a list of messages has three. */
export const MAX_SCHEMA_DEPTH = 12;
/** A page, compressed or not. Writers aim at 1 MB; DuckDB puts a whole row group of 122,880 rows into one. */
export const MAX_PAGE_BYTES = 128 << 20;
/** Values of a page, those that are null included. */
export const MAX_PAGE_VALUES = 1 << 22;
export const MAX_PARQUET_ROWS = 1 << 27;
/** Structures within structures of the metadata. */
const MAX_THRIFT_DEPTH = 16;
/** Most bytes of a number: 64 bits, 7 a byte. */
const MAX_VARINT_BYTES = 10;

/** A file that does not keep to the format; the reader adds the file's name. */
export class Broken extends Error {}

const broken = (what: string): never => {
  throw new Broken(what);
};

/**
 * Walks over one Thrift structure from `offset` and returns where it ends. Throws `Broken` where a list or text is longer
 * than what is left, where it nests too deep, and where it does not end.
 */
export function checkThrift(bytes: Uint8Array, offset: number): number {
  let at = offset;
  const byte = (): number => (at < bytes.length ? bytes[at++]! : broken("its metadata ends too early"));
  const varint = (): number => {
    let value = 0;
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      const next = byte();
      value += (next & 0x7f) * 2 ** (7 * i);
      if (next < 0x80) return value;
    }
    return broken("a number in its metadata does not end");
  };
  const skip = (length: number): void => {
    if (length > bytes.length - at) broken(`its metadata has a part of ${length} bytes where ${bytes.length - at} are left`);
    at += length;
  };
  const value = (type: number, depth: number): void => {
    if (type === 3) skip(1);
    else if (type >= 4 && type <= 6) varint();
    else if (type === 7) skip(8);
    else if (type === 8) skip(varint());
    else if (type === 9) {
      const head = byte();
      const length = head >> 4 === 15 ? varint() : head >> 4;
      const element = head & 15;
      // Truth values are types of their own in a structure, and bytes in a list.
      if (length > bytes.length - at) broken(`its metadata has a list of ${length} where ${bytes.length - at} bytes are left`);
      for (let i = 0; i < length; i++) value(element === 1 || element === 2 ? 3 : element, depth + 1);
    } else if (type === 12) structure(depth + 1);
    else if (type !== 1 && type !== 2) broken(`its metadata has a part of type ${type}`);
  };
  const structure = (depth: number): void => {
    if (depth > MAX_THRIFT_DEPTH) broken("its metadata nests too deep");
    for (let head = byte(); head !== 0; head = byte()) {
      if (head >> 4 === 0) varint();
      value(head & 15, depth);
    }
  };
  structure(0);
  return at;
}

/** Holds the schema to its limits, and its numbers of children to the elements that are there. */
export function checkSchema(schema: readonly SchemaElement[]): void {
  if (schema.length > MAX_SCHEMA_ELEMENTS) broken(`it has ${schema.length} columns, more than ${MAX_SCHEMA_ELEMENTS}`);
  const open: number[] = [1];
  for (const { num_children: children = 0 } of schema) {
    while (open.at(-1) === 0) open.pop();
    if (open.length === 0) broken("its schema has more elements than its groups");
    open[open.length - 1]!--;
    if (children > 0) open.push(children);
    if (open.length > MAX_SCHEMA_DEPTH) broken("its schema nests too deep");
  }
  if (open.some((left) => left > 0)) broken("its schema has fewer elements than its groups");
}

const isSize = (value: unknown, limit: number): value is number =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= limit;

/** Holds what a page's header says to the limits. Returns how many values it has. */
export function checkPageHeader(header: PageHeader, left: number): number {
  const { type, compressed_page_size, uncompressed_page_size } = header;
  if (!isSize(compressed_page_size, Math.min(left, MAX_PAGE_BYTES)))
    broken(`a page of ${compressed_page_size} bytes, ${left} are left`);
  if (!isSize(uncompressed_page_size, MAX_PAGE_BYTES))
    broken(`a page of ${uncompressed_page_size} bytes, ${MAX_PAGE_BYTES} are allowed`);
  const parts = {
    DATA_PAGE: header.data_page_header,
    DATA_PAGE_V2: header.data_page_header_v2,
    DICTIONARY_PAGE: header.dictionary_page_header,
  };
  const values = parts[type as keyof typeof parts]?.num_values;
  if (!isSize(values, MAX_PAGE_VALUES)) return broken(`a page of ${values} values, ${MAX_PAGE_VALUES} are allowed`);
  const v2 = header.data_page_header_v2;
  if (type === "DATA_PAGE_V2" && v2) {
    const levels = v2.repetition_levels_byte_length + v2.definition_levels_byte_length;
    const sizes = [v2.repetition_levels_byte_length, v2.definition_levels_byte_length, levels];
    if (!sizes.every((size) => isSize(size, compressed_page_size)) || levels > uncompressed_page_size)
      broken("levels longer than their page");
    if (!isSize(v2.num_nulls, values)) broken(`${v2.num_nulls} nulls among ${values} values`);
  }
  return values;
}

/** Encodings of texts whose size is bounded by that of their page. */
const ENCODINGS = ["PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_LENGTH_BYTE_ARRAY"];

/** Holds the runs in a data page to its number of values. Levels are those of the column. */
export function checkDataPage(page: Uint8Array, header: PageHeader, maxRepetition: number, maxDefinition: number): void {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const v2 = header.data_page_header_v2;
  const { num_values: values, encoding } = v2 ?? header.data_page_header!;
  if (!ENCODINGS.includes(encoding)) broken(`texts in the encoding ${encoding}; there are ${ENCODINGS.join(", ")}`);
  let at = 0;
  const levels = [
    [maxRepetition, v2?.repetition_levels_byte_length],
    [maxDefinition, v2?.definition_levels_byte_length],
  ] as const;
  for (const [max, given] of levels) {
    let length = given ?? 0;
    if (max > 0 && given === undefined) {
      if (at + 4 > page.length) broken("a page without its levels");
      length = view.getUint32(at, true);
      at += 4;
    }
    if (at + length > page.length) broken("levels longer than their page");
    if (max > 0) checkRuns(page.subarray(0, at + length), at, 32 - Math.clz32(max), values);
    at += length;
  }
  if (!encoding.endsWith("_DICTIONARY") || values === 0) return;
  const width = page[at] ?? 0;
  if (width > 32) broken(`dictionary indices of ${width} bits`);
  // A page of nulls only has no runs.
  if (at + 1 < page.length) checkRuns(page, at + 1, width, values, true);
}

/** Walks over runs of `values` numbers of `width` bits: none is longer than what it stands for. */
function checkRuns(bytes: Uint8Array, offset: number, width: number, values: number, mayEndEarly = false): void {
  let at = offset;
  for (let seen = 0; seen < values; ) {
    if (at >= bytes.length) {
      if (mayEndEarly) return;
      broken("runs that end too early");
    }
    let head = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? broken("runs that end too early");
      head += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) break;
      if (shift > 28) broken("a run whose length does not end");
    }
    if (head % 2 === 1) {
      const groups = (head - 1) / 2;
      // The last group is padded to eight numbers.
      if (groups === 0 || groups * 8 >= values - seen + 8) broken("a run that is longer than its page");
      at += groups * width;
      seen += groups * 8;
    } else {
      if (head === 0 || head / 2 > values - seen) broken("a run that is longer than its page");
      at += Math.ceil(width / 8);
      seen += head / 2;
    }
  }
}
