// A GGUF file's header, versions 2 and 3: metadata and where its tensors lie. Follows ggml's docs/gguf.md and the checks of its gguf.cpp.
import { type Failure, LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { quote } from "../json.ts";
import { type BlockDType, blockTypes } from "./blocks.ts";

/** Bytes before the tensors: a vocabulary of 262,144 tokens with its merges takes some 20 MB. */
export const MAX_HEADER_BYTES = 256 * 1024 * 1024;
/** Metadata; real files have some dozens. */
export const MAX_KEYS = 65_536;
/** Tensors of one file. The largest models have some thousands. */
export const MAX_TENSORS = 262_144;
/** Elements of one array of metadata: tokens, merges. */
export const MAX_ARRAY = 1 << 22;
/** Bytes of one string of metadata: a chat template. */
export const MAX_STRING_BYTES = 16 * 1024 * 1024;
/** The format's own limits. */
export const MAX_KEY_BYTES = 65_535;
export const MAX_NAME_BYTES = 64;
export const MAX_DIMENSIONS = 4;
export const MAX_ALIGNMENT = 65_536;
export const DEFAULT_ALIGNMENT = 32;
/** What is read of a file at first; more as long as the header goes on. */
const FIRST_BYTES = 4 * 1024 * 1024;

export type GgufValue = string | number | boolean | readonly string[] | readonly boolean[] | ArrayLike<number>;
export type GgufDType = "float32" | "float16" | "bfloat16" | BlockDType;

/** A tensor as it is stored: rows in front, so [out, in] for a matrix; `offset` counts from the start of the file. */
export interface GgufTensor {
  dtype: GgufDType;
  shape: number[];
  offset: number;
  length: number;
}

export interface GgufHeader {
  metadata: Map<string, GgufValue>;
  /** By GGUF's names, in the order of the payload. */
  tensors: Map<string, GgufTensor>;
}

/** Of each type that tensors are read in: elements of a block and its bytes. */
const types = new Map<number, { dtype: GgufDType; elements: number; bytes: number }>([
  [0, { dtype: "float32", elements: 1, bytes: 4 }],
  [1, { dtype: "float16", elements: 1, bytes: 2 }],
  [30, { dtype: "bfloat16", elements: 1, bytes: 2 }],
  ...Object.entries(blockTypes).map(([dtype, { id, elements, bytes }]) => {
    return [id, { dtype: dtype as BlockDType, elements, bytes }] as const;
  }),
]);

/** The names of ggml's other types. */
const OTHER_TYPES: Record<number, string> = {
  9: "Q8_1",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

const DAMAGED = "The file is damaged, cut short, or not a GGUF file; download it again.";

type Refuse = (reason: string, message: string, facts?: Partial<Failure>) => never;

const refusing =
  (subject: string): Refuse =>
  (reason, message, facts) => {
    throw new LowrankError(`gguf/${reason}`, message, { subject, next: DAMAGED, ...facts });
  };

/** Thrown when the header goes on behind the bytes that were read. */
class MoreNeeded extends Error {}

/**
 * Reads and checks the header of a GGUF file; no byte of the tensors is read. What the format forbids is refused with a code
 * `gguf/<reason>`, so that each tensor lies inside the file and none overlap.
 */
export async function readGguf(files: Files, path: string): Promise<GgufHeader> {
  const refuse = refusing(path);
  const size = await files.size(path);
  for (let length = Math.min(size, FIRST_BYTES); ; length = Math.min(size, 4 * length)) {
    try {
      return parse(await files.read(path, 0, length), size, refuse);
    } catch (error) {
      if (!(error instanceof MoreNeeded)) throw error;
      if (length === size) refuse("truncated", "the file ends inside its header", { got: `${size} bytes` });
      if (length >= MAX_HEADER_BYTES) {
        refuse("header-too-large", "the header is too large", { expected: `at most ${MAX_HEADER_BYTES} bytes` });
      }
    }
  }
}

/** Reads little-endian values one after another. */
class Cursor {
  at = 0;
  private readonly view: DataView;
  private readonly decoder = new TextDecoder("utf-8", { fatal: true });

  constructor(
    private readonly bytes: Uint8Array,
    readonly refuse: Refuse,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  take(length: number): number {
    const from = this.at;
    if (from + length > this.bytes.length) throw new MoreNeeded();
    this.at += length;
    return from;
  }

  number(type: number): number {
    const { bytes, read } = NUMBERS[type]!;
    return read(this.view, this.take(bytes));
  }

  uint32 = (): number => this.view.getUint32(this.take(4), true);

  /** A count, a length or an offset. */
  natural(what: string, most: number, reason: string): number {
    const value = this.view.getBigUint64(this.take(8), true);
    if (value <= BigInt(most)) return Number(value);
    return this.refuse(reason, `${what} is too large`, { expected: `at most ${most}`, got: `${value}` });
  }

  string(what: string, most = MAX_STRING_BYTES): string {
    const length = this.natural(`the length of ${what}`, most, "string-length");
    const from = this.take(length);
    try {
      return this.decoder.decode(this.bytes.subarray(from, from + length));
    } catch {
      return this.refuse("utf8", `${what} is not valid UTF-8`);
    }
  }

  boolean(what: string): boolean {
    const value = this.bytes[this.take(1)]!;
    return value > 1 ? this.refuse("boolean", `${what} is neither true nor false`, { got: `${value}` }) : value === 1;
  }

  value(what: string): GgufValue {
    const type = this.uint32();
    if (type !== ARRAY) return this.scalar(type, what);
    const inner = this.uint32();
    const count = this.natural(`the length of ${what}`, MAX_ARRAY, "array-length");
    if (inner === STRING) return Array.from({ length: count }, () => this.string(`a text of ${what}`));
    if (inner === BOOLEAN) return Array.from({ length: count }, () => this.boolean(what));
    if (!(inner in NUMBERS)) this.refuse("value-type", `${what} has elements of an unknown type`, { got: `type ${inner}` });
    const { bytes, all } = NUMBERS[inner]!;
    const from = this.take(count * bytes);
    return all(this.bytes.slice(from, from + count * bytes).buffer);
  }

  private scalar(type: number, what: string): GgufValue {
    if (type === STRING) return this.string(what);
    if (type === BOOLEAN) return this.boolean(what);
    if (type in NUMBERS) return this.number(type);
    return this.refuse("value-type", `${what} has an unknown type`, { got: `type ${type}` });
  }
}

const BOOLEAN = 7;
const STRING = 8;
const ARRAY = 9;
/** The decimal number of fewest digits that has this float32: 1e-5, which a float32 only comes close to. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/** Types of numbers in metadata: one of them, and all that a buffer holds. */
const NUMBERS: Record<
  number,
  { bytes: number; read: (view: DataView, at: number) => number; all: (buffer: ArrayBufferLike) => ArrayLike<number> }
> = {
  0: { bytes: 1, read: (view, at) => view.getUint8(at), all: (buffer) => new Uint8Array(buffer) },
  1: { bytes: 1, read: (view, at) => view.getInt8(at), all: (buffer) => new Int8Array(buffer) },
  2: { bytes: 2, read: (view, at) => view.getUint16(at, true), all: (buffer) => new Uint16Array(buffer) },
  3: { bytes: 2, read: (view, at) => view.getInt16(at, true), all: (buffer) => new Int16Array(buffer) },
  4: { bytes: 4, read: (view, at) => view.getUint32(at, true), all: (buffer) => new Uint32Array(buffer) },
  5: { bytes: 4, read: (view, at) => view.getInt32(at, true), all: (buffer) => new Int32Array(buffer) },
  6: { bytes: 4, read: (view, at) => shortest(view.getFloat32(at, true)), all: (buffer) => new Float32Array(buffer) },
  10: {
    bytes: 8,
    read: (view, at) => Number(view.getBigUint64(at, true)),
    all: (buffer) => Float64Array.from(new BigUint64Array(buffer), Number),
  },
  11: {
    bytes: 8,
    read: (view, at) => Number(view.getBigInt64(at, true)),
    all: (buffer) => Float64Array.from(new BigInt64Array(buffer), Number),
  },
  12: { bytes: 8, read: (view, at) => view.getFloat64(at, true), all: (buffer) => new Float64Array(buffer) },
};

function parse(bytes: Uint8Array, size: number, refuse: Refuse): GgufHeader {
  const cursor = new Cursor(bytes, refuse);
  if (size < 24) refuse("truncated", "the file ends inside its header", { got: `${size} bytes` });
  const magic = String.fromCharCode(...bytes.subarray(0, cursor.take(4) + 4));
  if (magic !== "GGUF") refuse("magic", "the file does not begin as a GGUF file", { expected: '"GGUF"', got: quote(magic) });
  const version = cursor.uint32();
  if (version !== 2 && version !== 3) {
    const isSwapped = version === 0x02000000 || version === 0x03000000;
    const got = isSwapped ? "a big-endian file" : `version ${version}`;
    const next = "Convert the model again with a current llama.cpp (convert_hf_to_gguf.py), on a little-endian machine.";
    refuse("version", "this version of GGUF can't be read", { expected: "version 2 or 3, little-endian", got, next });
  }
  const tensorCount = cursor.natural("the number of tensors", MAX_TENSORS, "too-many-tensors");
  const keyCount = cursor.natural("the number of metadata keys", MAX_KEYS, "too-many-keys");
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = cursor.string("a metadata key", MAX_KEY_BYTES);
    if (metadata.has(key)) refuse("duplicate-key", `the metadata has ${quote(key)} twice`);
    metadata.set(key, cursor.value(`the metadata ${quote(key)}`));
  }
  refuseParts(metadata, refuse);
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  const isPower =
    typeof alignment === "number" && alignment >= 8 && alignment <= MAX_ALIGNMENT && Number.isInteger(Math.log2(alignment));
  if (!isPower) {
    const expected = `a power of two from 8 to ${MAX_ALIGNMENT}`;
    return refuse("alignment", "the alignment of tensors is none", { expected, got: String(alignment) });
  }
  const tensors: [string, GgufTensor][] = [];
  for (let i = 0; i < tensorCount; i++) tensors.push(tensorInfo(cursor, alignment));
  const start = Math.ceil(cursor.at / alignment) * alignment;
  for (const [, tensor] of tensors) tensor.offset += start;
  return { metadata, tensors: inPayloadOrder(tensors, size, refuse) };
}

/** A file that is a part of a larger one; its first part alone has the metadata. */
function refuseParts(metadata: ReadonlyMap<string, GgufValue>, refuse: Refuse): void {
  const parts = metadata.get("split.count");
  if (typeof parts !== "number" || parts <= 1) return;
  refuse("split", "the file is one part of a model that was split", {
    expected: "a GGUF file that holds the whole model",
    got: `one of ${parts} parts`,
    next: "Join the parts with llama.cpp: llama-gguf-split --merge FIRST_PART.gguf WHOLE.gguf",
  });
}

function tensorInfo(cursor: Cursor, alignment: number): [string, GgufTensor] {
  const { refuse } = cursor;
  const name = cursor.string("a tensor's name", MAX_NAME_BYTES);
  const what = `tensor ${quote(name)}`;
  const rank = cursor.uint32();
  if (rank === 0 || rank > MAX_DIMENSIONS) {
    refuse("rank", `${what} has an impossible number of dimensions`, { expected: `1 to ${MAX_DIMENSIONS}`, got: `${rank}` });
  }
  const dims = Array.from({ length: rank }, () => cursor.natural(`a dimension of ${what}`, Number.MAX_SAFE_INTEGER, "overflow"));
  const type = cursor.uint32();
  const offset = cursor.natural(`the offset of ${what}`, Number.MAX_SAFE_INTEGER, "offset");
  const row = types.get(type);
  if (!row) {
    return refuse("type", `${what} is stored in a type that can't be read`, {
      expected: [...types.values()].map(({ dtype }) => dtype.toUpperCase()).join(", "),
      got: OTHER_TYPES[type] ?? `type ${type}`,
      next: "Use another quantization of the model, such as Q4_K_M or Q8_0.",
    });
  }
  const size = `[${dims.join(", ")}] in ${row.dtype}`;
  if (dims.some((dim) => dim === 0)) refuse("empty", `${what} has no elements`, { got: size });
  if (dims[0]! % row.elements !== 0) {
    refuse("row-length", `the rows of ${what} are no whole blocks`, { expected: `a multiple of ${row.elements}`, got: size });
  }
  const length = dims.reduce((product, dim) => product * dim, 1) * (row.bytes / row.elements);
  if (!(length <= Number.MAX_SAFE_INTEGER))
    refuse("overflow", `${what} has more elements than can be counted exactly`, { got: size });
  if (offset % alignment !== 0) {
    refuse("misaligned", `${what} is not aligned`, { expected: `a multiple of ${alignment}`, got: `offset ${offset}` });
  }
  return [name, { dtype: row.dtype, shape: dims.reverse(), offset, length }];
}

/** The tensors by offset, after the check that they lie in the file, that none overlap, and that no name comes twice. */
function inPayloadOrder(tensors: [string, GgufTensor][], size: number, refuse: Refuse): Map<string, GgufTensor> {
  tensors.sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  let end = 0;
  for (const [name, { offset, length }] of tensors) {
    const what = `tensor ${quote(name)}`;
    if (offset < end)
      refuse("overlap", `${what} overlaps the one before it`, { expected: `offset ${end}`, got: `offset ${offset}` });
    end = offset + length;
    if (end > size) {
      refuse("missing-bytes", `the file ends before ${what} does`, { expected: `${end} bytes`, got: `${size} bytes` });
    }
  }
  const byName = new Map(tensors);
  if (byName.size === tensors.length) return byName;
  const twice = tensors.find((tensor) => byName.get(tensor[0]) !== tensor[1]);
  return refuse("duplicate-tensor", `two tensors are named ${quote(twice![0])}`);
}
