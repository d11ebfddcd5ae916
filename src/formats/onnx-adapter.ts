// ONNX Runtime's .onnx_adapter: a FlatBuffer with named tensors (onnxruntime/lora/adapter_format/adapter_schema.fbs), read within bounds.
import { Builder, ByteBuffer } from "flatbuffers";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { bytesPerElement, type DType, sizeOf, type Tensor } from "../tensor.ts";
import { bytesOf, tensorFromBytes } from "./dtypes.ts";

const IDENTIFIER = "TORT";
const FORMAT_VERSION = 1;
/** The versions that a file names of the adapter and of its model, which ONNX Runtime does not compare. */
const OWN_VERSION = 1;
/** FlatBuffers' offsets are signed. */
const MAX_BYTES = 2 ** 31 - 1;
const MAX_DIMENSIONS = 8;
const ALIGNED = 8;

/** TensorDataType of those that factors are stored in. */
const types: Partial<Record<DType, number>> = { float32: 1, float16: 10, bfloat16: 16 };
/** Places of fields in their tables. */
const adapterFields = { formatVersion: 0, adapterVersion: 1, modelVersion: 2, parameters: 3 };
const parameterFields = { name: 0, dims: 1, dataType: 2, rawData: 3 };
const NUMBER_OF_FIELDS = 4;

/** The bytes of a file with these tensors. */
export function onnxAdapterBytes(parameters: ReadonlyMap<string, Tensor>): Uint8Array {
  const builder = new Builder(1024);
  const tables = [...parameters].map(([name, { dtype, shape, data }]) => {
    const bytes = bytesOf(data);
    const stringAt = builder.createString(name);
    builder.startVector(8, shape.length, 8);
    for (const dim of [...shape].reverse()) builder.addInt64(BigInt(dim));
    const dimsAt = builder.endVector();
    builder.prep(ALIGNED, bytes.length);
    const bytesAt = builder.createByteVector(bytes);
    builder.startObject(NUMBER_OF_FIELDS);
    builder.addFieldOffset(parameterFields.name, stringAt, 0);
    builder.addFieldOffset(parameterFields.dims, dimsAt, 0);
    builder.addFieldInt32(parameterFields.dataType, types[dtype]!, 0);
    builder.addFieldOffset(parameterFields.rawData, bytesAt, 0);
    return builder.endObject();
  });
  builder.startVector(4, tables.length, 4);
  for (const table of tables.reverse()) builder.addOffset(table);
  const tablesAt = builder.endVector();
  builder.startObject(NUMBER_OF_FIELDS);
  builder.addFieldInt32(adapterFields.formatVersion, FORMAT_VERSION, 0);
  builder.addFieldInt32(adapterFields.adapterVersion, OWN_VERSION, 0);
  builder.addFieldInt32(adapterFields.modelVersion, OWN_VERSION, 0);
  builder.addFieldOffset(adapterFields.parameters, tablesAt, 0);
  builder.finish(builder.endObject(), IDENTIFIER);
  return builder.asUint8Array();
}

/** Whether a file begins as one does. */
export async function isOnnxAdapter(files: Files, path: string): Promise<boolean> {
  if (!(await files.exists(path)) || (await files.isFolder(path)) || (await files.size(path)) < 8) return false;
  return new ByteBuffer(await files.read(path, 0, 8)).__has_identifier(IDENTIFIER);
}

/** Where a tensor lies in a file. */
export interface StoredParameter {
  shape: number[];
  read(): Tensor;
}

/** The tensors of a file by name. Fails with `onnx-adapter/file` for what is no such file, or leads out of it. */
export async function readOnnxAdapter(files: Files, path: string): Promise<Map<string, StoredParameter>> {
  const size = await files.size(path);
  if (size > MAX_BYTES) throw damaged(path, "the file is too large", `at most ${MAX_BYTES} bytes`, `${size} bytes`);
  const bytes = await files.read(path, 0, size);
  const buffer = new ByteBuffer(bytes);
  const fail = (message: string, expected: string, got: string): never => {
    throw damaged(path, message, expected, got);
  };
  const inside = (at: number, length: number, what: string): number => {
    if (at >= 8 && length >= 0 && at + length <= size) return at;
    return fail(`${what} leads out of the file`, `a place within ${size} bytes`, `${length} bytes at ${at}`);
  };
  if (size < 8 || !buffer.__has_identifier(IDENTIFIER)) fail("it is no file of an adapter", IDENTIFIER, `${size} bytes`);

  const tableAt = (reference: number, what: string): number => inside(reference + buffer.readInt32(reference), 4, what);
  /** Where a field of a table lies; 0 if it has none. */
  const fieldAt = (table: number, field: number, length: number, what: string): number => {
    const vtable = inside(table - buffer.readInt32(table), 4, what);
    inside(vtable, buffer.readUint16(vtable), what);
    const entry = 4 + 2 * field;
    const offset = entry < buffer.readUint16(vtable) ? buffer.readUint16(vtable + entry) : 0;
    return offset === 0 ? 0 : inside(table + offset, length, what);
  };
  const vectorAt = (table: number, field: number, width: number, what: string): { at: number; length: number } => {
    const reference = fieldAt(table, field, 4, what);
    if (reference === 0) return fail(`${what} is missing`, what, "none");
    const at = inside(reference + buffer.readUint32(reference), 4, what);
    const length = buffer.readUint32(at);
    return { at: inside(at + 4, length * width, what), length };
  };

  const root = tableAt(0, "the table");
  const versionAt = fieldAt(root, adapterFields.formatVersion, 4, "the version");
  const version = versionAt === 0 ? 0 : buffer.readInt32(versionAt);
  if (version !== FORMAT_VERSION) fail("the version of the format is not supported", `${FORMAT_VERSION}`, `${version}`);
  const all = vectorAt(root, adapterFields.parameters, 4, "the list of tensors");
  const found = new Map<string, StoredParameter>();
  for (let i = 0; i < all.length; i++) {
    const table = tableAt(all.at + 4 * i, "a tensor");
    const text = vectorAt(table, parameterFields.name, 1, "a name");
    const name = new TextDecoder().decode(bytes.subarray(text.at, text.at + text.length));
    const dims = vectorAt(table, parameterFields.dims, 8, `the shape of ${name}`);
    if (dims.length > MAX_DIMENSIONS) fail(`${name} has too many dimensions`, `${MAX_DIMENSIONS}`, `${dims.length}`);
    const shape = Array.from({ length: dims.length }, (_, axis) => Number(buffer.readInt64(dims.at + 8 * axis)));
    const typeAt = fieldAt(table, parameterFields.dataType, 4, `the type of ${name}`);
    const type = typeAt === 0 ? 0 : buffer.readInt32(typeAt);
    const dtype = (Object.keys(types) as DType[]).find((one) => types[one] === type);
    if (!dtype) return fail(`${name} has a type that no factor has`, Object.keys(types).join(", "), `TensorDataType ${type}`);
    const raw = vectorAt(table, parameterFields.rawData, 1, `the values of ${name}`);
    const isShape = shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0);
    if (!isShape || sizeOf(shape) * bytesPerElement[dtype] !== raw.length)
      fail(`the values of ${name} do not fill its shape`, `[${shape.join(", ")}] in ${dtype}`, `${raw.length} bytes`);
    if (found.has(name)) fail("two tensors have the same name", "each once", name);
    found.set(name, { shape, read: () => tensorFromBytes(dtype, shape, bytes.slice(raw.at, raw.at + raw.length)) });
  }
  return found;
}

const damaged = (subject: string, message: string, expected: string, got: string): LowrankError =>
  new LowrankError("onnx-adapter/file", message, {
    subject,
    expected,
    got,
    next: "The file is damaged, or of another version of ONNX Runtime; convert the adapter again.",
  });
