// The dtypes a safetensors file can hold, in the order of the reference's Dtype enum (increasing alignment), which is the order of writing.
import { LowrankError } from "../errors.ts";
import { bytesPerElement, type DType, type Tensor, type TensorData } from "../tensor.ts";

const ROWS = [
  ["BOOL", "bool", 8],
  ["F4", "float4_e2m1fn", 4],
  ["F6_E2M3", "float6_e2m3fn", 6],
  ["F6_E3M2", "float6_e3m2fn", 6],
  ["U8", "uint8", 8],
  ["I8", "int8", 8],
  ["F8_E5M2", "float8_e5m2", 8],
  ["F8_E4M3", "float8_e4m3fn", 8],
  ["F8_E8M0", "float8_e8m0fnu", 8],
  ["F8_E4M3FNUZ", "float8_e4m3fnuz", 8],
  ["F8_E5M2FNUZ", "float8_e5m2fnuz", 8],
  ["I16", "int16", 16],
  ["U16", "uint16", 16],
  ["F16", "float16", 16],
  ["BF16", "bfloat16", 16],
  ["I32", "int32", 32],
  ["U32", "uint32", 32],
  ["F32", "float32", 32],
  ["C64", "complex64", 64],
  ["F64", "float64", 64],
  ["I64", "int64", 64],
  ["U64", "uint64", 64],
] as const;

/** A dtype as a file can hold it: every `DType`, and those that can be listed and copied but not read. */
export type StoredDType = (typeof ROWS)[number][1];

interface DTypeRow {
  code: string;
  dtype: StoredDType;
  bits: number;
  /** Place in the order of writing. */
  order: number;
}

const TABLE: DTypeRow[] = ROWS.map(([code, dtype, bits], order) => ({ code, dtype, bits, order }));
export const dtypeByCode: ReadonlyMap<string, DTypeRow> = new Map(TABLE.map((row) => [row.code, row]));
const byDType: ReadonlyMap<string, DTypeRow> = new Map(TABLE.map((row) => [row.dtype, row]));

export const dtypeRow = (dtype: StoredDType): DTypeRow => byDType.get(dtype)!;

/** NaN once a product is no longer exact; NaN then stays. */
const exact = (value: number): number => (Number.isSafeInteger(value) ? value : Number.NaN);

/** Bytes of a tensor; NaN when the product leaves the exact integers, a fraction when sub-byte elements do not fill a byte. */
export const byteLength = (dtype: StoredDType, shape: readonly number[]): number =>
  exact(shape.reduce((product, dim) => exact(product * dim), 1) * dtypeRow(dtype).bits) / 8;

/** `dtype` as one that tensors can have; a dtype that can only be listed and copied is refused by name. */
export function readableDType(dtype: StoredDType, subject: string): DType {
  if (dtype in bytesPerElement) return dtype as DType;
  throw new LowrankError("safetensors/dtype-unsupported", `tensors of dtype ${dtypeRow(dtype).code} can't be read`, {
    subject,
    expected: Object.keys(bytesPerElement).join(", "),
    got: dtype,
    next: "Use a checkpoint stored in bfloat16, float16 or float32.",
  });
}

type TypedArray = new (buffer: ArrayBufferLike, offset: number, length: number) => TensorData;
const ARRAYS: Record<DType, TypedArray> = {
  float64: Float64Array,
  float32: Float32Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

/** A tensor over little-endian `bytes`; they are copied only when they do not lie on an element's boundary. */
export function tensorFromBytes(dtype: DType, shape: readonly number[], bytes: Uint8Array): Tensor {
  const size = bytesPerElement[dtype];
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  return { dtype, shape, data: new ARRAYS[dtype](aligned.buffer, aligned.byteOffset, bytes.length / size) };
}

/** The bytes of a tensor's data, not copied. */
export const bytesOf = (data: TensorData): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
