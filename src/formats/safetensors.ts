// safetensors files, in and out. Follows the format's text and the checks of its reference (safetensors/src/tensor.rs).
import { type Failure, LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import type { Tensor } from "../tensor.ts";
import { byteLength, dtypeByCode, dtypeRow, readableDType, type StoredDType, tensorFromBytes } from "./dtypes.ts";
import { type Json, parseStrictJson, quote } from "./json.ts";
import { BLOCK_BYTES } from "./side-files.ts";

/** Header limit of the format. */
export const MAX_HEADER_BYTES = 100_000_000;
/** Tensors of one file. The largest shards on the hub hold some thousands. */
export const MAX_TENSORS = 262_144;
/** JSON values of one header: about eight a tensor. */
const MAX_HEADER_VALUES = 16 * MAX_TENSORS;
/** Dimensions of one tensor; PyTorch's own limit. */
export const MAX_RANK = 64;
const LENGTH_BYTES = 8;

/** Where a tensor lies in its file. `offset` counts from the start of the file, `length` is in bytes. */
export interface TensorEntry {
  dtype: StoredDType;
  shape: number[];
  offset: number;
  length: number;
}

export interface SafetensorsHeader {
  /** In the order of the payload. */
  tensors: Map<string, TensorEntry>;
  /** The strings under `__metadata__`; the object has no prototype. */
  metadata: Record<string, string>;
  /** Where the payload starts. */
  dataOffset: number;
}

const DAMAGED = "The file is damaged, cut short, or not a safetensors file; fetch or write it again.";

type Refuse = (reason: string, message: string, facts?: Pick<Failure, "expected" | "got">) => never;

const refusing =
  (subject: string, next: string): Refuse =>
  (reason, message, facts) => {
    throw new LowrankError(`safetensors/${reason}`, message, { subject, ...facts, next });
  };

/**
 * Reads and checks the header of a safetensors file; no byte of the payload is read. Everything that the format
 * forbids is refused with a code `safetensors/<reason>`, so that each entry lies inside the file and none overlap.
 */
export async function readHeader(files: Files, path: string): Promise<SafetensorsHeader> {
  const refuse = refusing(path, DAMAGED);
  const size = await files.size(path);
  if (size < LENGTH_BYTES)
    refuse("too-small", "shorter than a header's length field", { expected: "8 bytes", got: `${size} bytes` });
  const prefix = await files.read(path, 0, LENGTH_BYTES);
  const claimed = new DataView(prefix.buffer, prefix.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  const got = `${claimed} bytes`;
  if (claimed === 0n) refuse("header-empty", "the header has no bytes");
  if (claimed > MAX_HEADER_BYTES)
    refuse("header-too-large", "the header is too large", { expected: `at most ${MAX_HEADER_BYTES}`, got });
  const length = Number(claimed);
  const dataOffset = LENGTH_BYTES + length;
  if (dataOffset > size) {
    refuse("header-past-end", "the header is longer than the file", { expected: `at most ${size - LENGTH_BYTES} bytes`, got });
  }
  const text = decode(await files.read(path, LENGTH_BYTES, length), refuse);
  const { tensors, metadata } = parseHeader(text, path, dataOffset, refuse);
  return { tensors: inPayloadOrder(tensors, dataOffset, size, refuse), metadata, dataOffset };
}

type Placed = [name: string, entry: TensorEntry];

function decode(bytes: Uint8Array, refuse: Refuse): string {
  if (bytes[0] !== 0x7b) {
    const got = `byte 0x${bytes[0]!.toString(16)}`;
    refuse("header-start", "the header does not start with {", { expected: "byte 0x7b", got });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return refuse("utf8", "the header is not valid UTF-8");
  }
}

function parseHeader(text: string, path: string, dataOffset: number, refuse: Refuse) {
  const root = parseStrictJson(text, { code: "safetensors", subject: path, maxValues: MAX_HEADER_VALUES }) as Map<string, Json>;
  const metadata = parseMetadata(root.get("__metadata__"), refuse);
  root.delete("__metadata__");
  if (root.size > MAX_TENSORS) {
    refuse("too-many-tensors", "the header lists too many tensors", { expected: `at most ${MAX_TENSORS}`, got: `${root.size}` });
  }
  const tensors = [...root].map(([name, value]): Placed => [name, parseEntry(name, value, dataOffset, refuse)]);
  return { tensors, metadata };
}

function parseMetadata(value: Json | undefined, refuse: Refuse): Record<string, string> {
  const metadata: Record<string, string> = Object.create(null);
  if (value === undefined) return metadata;
  if (!(value instanceof Map)) return refuse("metadata", "__metadata__ is not an object", { expected: "an object of strings" });
  for (const [key, text] of value) {
    if (typeof text !== "string") refuse("metadata-value", `__metadata__ holds something else than a string under ${quote(key)}`);
    metadata[key] = text as string;
  }
  return metadata;
}

/** One tensor's entry. Members beyond the three are allowed, as the reference allows them. */
function parseEntry(name: string, value: Json, dataOffset: number, refuse: Refuse): TensorEntry {
  const what = `tensor ${quote(name)}`;
  if (!(value instanceof Map)) return refuse("entry", `the entry of ${what} is not an object`);
  for (const field of ["dtype", "shape", "data_offsets"]) {
    if (!value.has(field)) refuse("missing-field", `${what} has no ${field}`);
  }

  const code = value.get("dtype");
  const row = typeof code === "string" ? dtypeByCode.get(code) : undefined;
  if (row === undefined) {
    const got = typeof code === "string" ? quote(code) : "not a string";
    return refuse("dtype", `${what} has an unknown dtype`, { expected: [...dtypeByCode.keys()].join(", "), got });
  }

  const shape = value.get("shape");
  if (!Array.isArray(shape)) return refuse("shape", `the shape of ${what} is not an array`);
  if (shape.length > MAX_RANK) {
    refuse("rank", `${what} has too many dimensions`, { expected: `at most ${MAX_RANK}`, got: `${shape.length}` });
  }
  const dims = shape.map((dim) => natural(dim, `a dimension of ${what}`, refuse));

  const offsets = value.get("data_offsets");
  if (!Array.isArray(offsets) || offsets.length !== 2) return refuse("offsets", `data_offsets of ${what} is not a pair`);
  const [begin, end] = offsets.map((offset) => natural(offset, `an offset of ${what}`, refuse)) as [number, number];
  if (end < begin) refuse("offsets-reversed", `${what} ends before it begins`, { got: `[${begin}, ${end}]` });

  const bytes = byteLength(row.dtype, dims);
  const size = `${code} [${dims.join(", ")}]`;
  if (Number.isNaN(bytes)) refuse("overflow", `${what} has more elements than can be counted exactly`, { got: size });
  if (!Number.isInteger(bytes)) refuse("misaligned", `${what} does not fill its last byte`, { got: size });
  if (bytes !== end - begin) {
    refuse("length", `${what} has a length that does not fit its dtype and shape`, {
      expected: `${bytes} bytes for ${size}`,
      got: `${end - begin} bytes`,
    });
  }
  return { dtype: row.dtype, shape: dims, offset: dataOffset + begin, length: bytes };
}

function natural(value: Json, what: string, refuse: Refuse): number {
  if (typeof value === "number" && value >= 0) return value;
  const written = typeof value === "object" && value !== null && "literal" in value ? value.literal.slice(0, 40) : undefined;
  return refuse("integer", `${what} is not a plain integer`, {
    expected: "an integer from 0 to 2^53 - 1",
    got: written ?? (typeof value === "number" ? `${value}` : "not a number"),
  });
}

/** The entries by offset, after the check that they cover the payload exactly: no overlap, no hole, nothing left, nothing missing. */
function inPayloadOrder(tensors: Placed[], start: number, size: number, refuse: Refuse): Map<string, TensorEntry> {
  tensors.sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  let end = start;
  for (const [name, { offset, length }] of tensors) {
    const facts = { expected: `offset ${end - start}`, got: `offset ${offset - start}` };
    if (offset < end) refuse("overlap", `tensor ${quote(name)} overlaps the one before it`, facts);
    if (offset > end) refuse("hole", `no tensor owns the bytes before tensor ${quote(name)}`, facts);
    end = offset + length;
  }
  const facts = { expected: `${end - start} bytes of payload`, got: `${size - start} bytes` };
  if (end > size) refuse("missing-bytes", "the file ends before its tensors do", facts);
  if (end < size) refuse("trailing-bytes", "bytes follow the last tensor", facts);
  return new Map(tensors);
}

/** Reads one tensor. A dtype that `Tensor` has no place for is refused by name. */
export async function readTensor(files: Files, path: string, entry: TensorEntry): Promise<Tensor> {
  const dtype = readableDType(entry.dtype, path);
  return tensorFromBytes(dtype, entry.shape, await files.read(path, entry.offset, entry.length));
}

/** Groups of tensors that lie one behind the other, a few megabytes together, to be read at once; a larger one is alone. */
export function* neighbours<E extends Pick<TensorEntry, "offset" | "length">>(entries: Iterable<E>): Generator<E[]> {
  let group: E[] = [];
  for (const entry of entries) {
    const [first, last] = [group[0], group.at(-1)];
    if (last && (last.offset + last.length !== entry.offset || entry.offset + entry.length - first!.offset > BLOCK_BYTES)) {
      yield group;
      group = [];
    }
    group.push(entry);
  }
  if (group.length > 0) yield group;
}

/** A tensor to write. `data` is asked once, when its turn comes, and gives the little-endian bytes whole or in parts. */
export interface TensorSource {
  name: string;
  dtype: StoredDType;
  shape: readonly number[];
  data: () => Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

/**
 * Writes a safetensors file, one tensor in memory at a time: the payload ordered as the reference orders it (dtype by
 * descending alignment, then name), or with `asGiven` as the tensors come, the header padded to a multiple of 8 bytes. The file appears
 * whole or not at all.
 */
export async function writeSafetensors(
  files: Files,
  path: string,
  tensors: Iterable<TensorSource>,
  metadata?: Record<string, string>,
  asGiven = false,
): Promise<void> {
  const sources = asGiven ? [...tensors] : ordered(tensors);
  await files.write(path, fileChunks(path, encodeHeader(path, sources, metadata), sources));
}

type TensorHeader = Omit<TensorSource, "data">;

const ordered = <T extends TensorHeader>(tensors: Iterable<T>): T[] =>
  [...tensors].sort((a, b) => dtypeRow(b.dtype).order - dtypeRow(a.dtype).order || (a.name < b.name ? -1 : 1));

/** Size in bytes of the file that `writeSafetensors` writes for these tensors. */
export function safetensorsBytes(tensors: readonly TensorHeader[], metadata?: Record<string, string>): number {
  const header = encodeHeader("", ordered(tensors), metadata).length;
  return tensors.reduce((sum, { dtype, shape }) => sum + byteLength(dtype, shape), header);
}

function encodeHeader(path: string, sources: readonly TensorHeader[], metadata?: Record<string, string>): Uint8Array {
  const refuse = refusing(path, "Correct the tensors to be written.");
  const members = metadata && Object.keys(metadata).length > 0 ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  const names = new Set<string>();
  let end = 0;
  for (const { name, dtype, shape } of sources) {
    if (name === "__metadata__") refuse("reserved-name", "no tensor can be named __metadata__");
    if (names.has(name)) refuse("duplicate-key", `two tensors are named ${quote(name)}`);
    names.add(name);
    const length = shape.every((dim) => dim >= 0) ? byteLength(dtype, shape) : Number.NaN;
    if (!Number.isInteger(length))
      refuse("shape", `tensor ${quote(name)} has no whole number of bytes`, { got: `${dtype} [${shape}]` });
    const entry = { dtype: dtypeRow(dtype).code, shape, data_offsets: [end, end + length] };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    end += length;
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const padded = Math.ceil(json.length / LENGTH_BYTES) * LENGTH_BYTES;
  if (padded > MAX_HEADER_BYTES)
    refuse("header-too-large", "the header is too large", { expected: `at most ${MAX_HEADER_BYTES} bytes` });
  const bytes = new Uint8Array(LENGTH_BYTES + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, LENGTH_BYTES);
  return bytes;
}

async function* fileChunks(path: string, header: Uint8Array, sources: TensorSource[]): AsyncGenerator<Uint8Array> {
  yield header;
  for (const { name, dtype, shape, data } of sources) {
    const expected = byteLength(dtype, shape);
    const given = await data();
    let written = 0;
    for await (const chunk of given instanceof Uint8Array ? [given] : given) {
      written += chunk.length;
      yield chunk;
    }
    if (written !== expected) {
      const facts = { expected: `${expected} bytes for ${dtype} [${shape.join(", ")}]`, got: `${written} bytes` };
      const refuse = refusing(path, "Give data that fits the dtype and shape.");
      refuse("length", `tensor ${quote(name)} gave the wrong number of bytes`, facts);
    }
  }
}
