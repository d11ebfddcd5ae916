// A GGUF file written: version 3, little-endian, as ggml's docs/gguf.md lays it out. One tensor in memory at a time.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { sizeOf } from "../../tensor.ts";
import { quote } from "../json.ts";
import { type WritableType, writableTypes } from "./quantize.ts";
import { DEFAULT_ALIGNMENT, MAX_DIMENSIONS, MAX_NAME_BYTES } from "./reader.ts";

type Value =
  | ["uint32" | "float32", number]
  | ["bool", boolean]
  | ["string", string]
  | ["strings", readonly string[]]
  | ["int32s" | "float32s", readonly number[]];
/** A key of the metadata with its type and value. */
export type GgufEntry = readonly [key: string, type: Value[0], value: Value[1]];

/** A tensor to write: rows in front, so [out, in] for a matrix. `data` is asked once, and gives whole rows in blocks, as float32. */
export interface GgufSource {
  name: string;
  type: WritableType;
  shape: readonly number[];
  data: () => AsyncIterable<Float32Array> | Iterable<Float32Array>;
}

const TYPES = { uint32: 4, int32s: 5, float32: 6, float32s: 6, bool: 7, string: 8, strings: 8 };
const ARRAY = 9;
const VERSION = 3;

/** Little-endian values one after another. */
class Bytes {
  readonly parts: Uint8Array[] = [];
  length = 0;
  private readonly encoder = new TextEncoder();

  add(part: Uint8Array): this {
    this.parts.push(part);
    this.length += part.length;
    return this;
  }
  u32 = (value: number): this => this.add(new Uint8Array(Uint32Array.of(value).buffer));
  u64 = (value: number): this => this.add(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  string(text: string): this {
    const bytes = this.encoder.encode(text);
    return this.u64(bytes.length).add(bytes);
  }
  value(type: Value[0], value: Value[1]): this {
    if (Array.isArray(value)) {
      this.u32(ARRAY).u32(TYPES[type]).u64(value.length);
      if (type === "int32s") return this.add(new Uint8Array(Int32Array.from(value as number[]).buffer));
      if (type === "float32s") return this.add(new Uint8Array(Float32Array.from(value as number[]).buffer));
      for (const text of value as string[]) this.string(text);
      return this;
    }
    this.u32(TYPES[type]);
    if (type === "bool") return this.add(Uint8Array.of(Number(value)));
    if (type === "float32") return this.add(new Uint8Array(Float32Array.of(Number(value)).buffer));
    return type === "string" ? this.string(String(value)) : this.u32(Number(value));
  }
  padding = (length: number): this => this.add(new Uint8Array(length));
}

const padded = (length: number): number => Math.ceil(length / DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT;

/** Bytes of a tensor in a type that its rows fit. */
export const ggufBytes = ({ type, shape }: Pick<GgufSource, "type" | "shape">): number =>
  (sizeOf(shape) / writableTypes[type].elements) * writableTypes[type].bytes;

/** Writes the file, whole or not at all. Errors: `gguf/write`. */
export async function writeGguf(
  files: Files,
  path: string,
  metadata: readonly GgufEntry[],
  tensors: readonly GgufSource[],
): Promise<void> {
  const header = encodeHeader(path, metadata, tensors);
  await files.write(path, chunks(path, header, tensors));
}

function encodeHeader(path: string, metadata: readonly GgufEntry[], tensors: readonly GgufSource[]): Uint8Array[] {
  const out = new Bytes().add(new TextEncoder().encode("GGUF")).u32(VERSION).u64(tensors.length).u64(metadata.length);
  for (const [key, type, value] of metadata) out.string(key).value(type, value);
  let offset = 0;
  for (const { name, type, shape } of tensors) {
    checkTensor(path, name, type, shape);
    out.string(name).u32(shape.length);
    for (const dim of [...shape].reverse()) out.u64(dim);
    out.u32(writableTypes[type].id).u64(offset);
    offset += padded(ggufBytes({ type, shape }));
  }
  return out.padding(padded(out.length) - out.length).parts;
}

function checkTensor(path: string, name: string, type: WritableType, shape: readonly number[]): void {
  const isNamed = new TextEncoder().encode(name).length < MAX_NAME_BYTES;
  const isShaped = shape.length > 0 && shape.length <= MAX_DIMENSIONS && shape.at(-1)! % writableTypes[type].elements === 0;
  if (isNamed && isShaped) return;
  throw new LowrankError("gguf/write", "a tensor cannot be written to a GGUF file", {
    subject: `${path}: ${quote(name)}`,
    expected: `a name of less than ${MAX_NAME_BYTES} bytes, 1 to ${MAX_DIMENSIONS} dimensions, rows of whole blocks`,
    got: `[${shape.join(", ")}] in ${type}`,
    next: "Write it in another type (--dtype f16).",
  });
}

async function* chunks(path: string, header: readonly Uint8Array[], tensors: readonly GgufSource[]): AsyncGenerator<Uint8Array> {
  yield* header;
  for (const { name, type, shape, data } of tensors) {
    let written = 0;
    for await (const block of data()) {
      const bytes = writableTypes[type].encode(block);
      if (bytes === null) {
        throw new LowrankError("gguf/write", `a value of ${name} is not finite in ${type}`, {
          subject: path,
          expected: "finite values within the range of the type",
          next: "Write it in another type (--dtype bf16 or f32), or check the model: its training may have diverged.",
          exitCode: 1,
        });
      }
      written += bytes.length;
      yield bytes;
    }
    const length = ggufBytes({ type, shape });
    if (written !== length) throw new Error(`${name} gave ${written} bytes, not ${length}`);
    yield new Uint8Array(padded(length) - length);
  }
}
