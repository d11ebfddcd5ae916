// bfloat16 and float16 bit patterns to and from float32, rounding to nearest, ties to even (IEEE 754-2019, 4.3.1).
import { LowrankError } from "../errors.ts";
import type { DType, Tensor, TensorData } from "../tensor.ts";

/** The dtypes that arithmetic is defined on. */
export type FloatDType = "float64" | "float32" | "float16" | "bfloat16";

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** bfloat16 patterns to float32: exact. */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16;
  return new Float32Array(out.buffer);
}

/** float32 to bfloat16 patterns. A NaN stays a NaN (made quiet), what lies beyond the largest value becomes infinity. */
export function float32ToBfloat16(data: Float32Array): Uint16Array {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const out = new Uint16Array(data.length);
  for (let i = 0; i < out.length; i++) {
    const b = bits[i]!;
    const quiet = (b >>> 16) | 0x40;
    out[i] = (b & 0x7fffffff) > 0x7f800000 ? quiet : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** float16 patterns to float32: exact. */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  const out = new Float32Array(bits.length);
  const outBits = new Uint32Array(out.buffer);
  for (let i = 0; i < out.length; i++) {
    const b = bits[i]!;
    const magnitude = (b & 0x7fff) << 13; // exponent and fraction at float32's places
    if ((b & 0x7c00) === 0x7c00) {
      outBits[i] = magnitude | 0x7f800000; // infinity or NaN
    } else {
      scratchBits[0] = magnitude;
      out[i] = scratch[0]! * 2 ** 112; // the difference of the exponent biases; right for subnormals too
    }
    if (b & 0x8000) outBits[i]! |= 0x80000000;
  }
  return out;
}

/** float32 to float16 patterns. A NaN stays a NaN (made quiet); 65520 and beyond become infinity. */
export function float32ToFloat16(data: Float32Array): Uint16Array {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const out = new Uint16Array(data.length);
  for (let i = 0; i < out.length; i++) {
    const b = bits[i]!;
    const magnitude = b & 0x7fffffff;
    out[i] = ((b >>> 16) & 0x8000) | float16Magnitude(magnitude, Math.abs(data[i]!));
  }
  return out;
}

function float16Magnitude(bits: number, value: number): number {
  if (bits > 0x7f800000) return 0x7e00 | ((bits >>> 13) & 0x3ff); // NaN
  if (bits >= 0x477ff000) return 0x7c00; // at or beyond half-way from 65504 to 65536
  if (bits >= 0x38800000) return (bits - 0x38000000 + 0xfff + ((bits >>> 13) & 1)) >>> 13; // normal, at least 2^-14
  return value * 2 ** 24 + 2 ** 52 - 2 ** 52; // subnormal: units of 2^-24; the addition rounds to an even integer
}

/** From a dtype's data to float32 and back. float32 itself is not copied. */
const conversions: Record<FloatDType, { decode(data: TensorData): Float32Array; encode(data: Float32Array): TensorData }> = {
  float32: { decode: (data) => data as Float32Array, encode: (data) => data },
  bfloat16: { decode: (data) => bfloat16ToFloat32(data as Uint16Array), encode: float32ToBfloat16 },
  float16: { decode: (data) => float16ToFloat32(data as Uint16Array), encode: float32ToFloat16 },
  float64: { decode: (data) => Float32Array.from(data as Float64Array), encode: (data) => Float64Array.from(data) },
};

export const isFloat = (dtype: string): dtype is FloatDType => Object.hasOwn(conversions, dtype);

/** Of a 32-bit word: the exponents of the elements in it, and one in the last place of each. An exponent of ones is NaN or infinity. */
const exponents: Record<FloatDType, { mask: number; one: number; every?: 2 }> = {
  bfloat16: { mask: 0x7f807f80, one: 0x00800080 },
  float16: { mask: 0x7c007c00, one: 0x04000400 },
  float32: { mask: 0x7f800000, one: 0x00800000 },
  float64: { mask: 0x7ff00000, one: 0x00100000, every: 2 }, // the upper half
};

/** Whether no element is NaN or infinity, by the bits of whole elements, little-endian. */
export function allFinite(bytes: Uint8Array, dtype: FloatDType): boolean {
  const rest = bytes.length % 4;
  const isWhole = rest === 0 && bytes.byteOffset % 4 === 0;
  const padded = isWhole ? bytes : new Uint8Array(bytes.length + ((4 - rest) % 4));
  if (!isWhole) padded.set(bytes);
  const words = new Int32Array(padded.buffer, padded.byteOffset, padded.length / 4);
  const { mask, one, every = 1 } = exponents[dtype];
  let carried = 0;
  for (let i = every - 1; i < words.length; i += every) carried |= ((words[i]! & mask) + one) | 0;
  return (carried & 0x80008000 & (mask | (mask << 1))) === 0;
}

/** The elements of a floating tensor as float32. A float32 tensor's own array is returned, not a copy. */
export const toFloat32 = ({ dtype, data }: Tensor): Float32Array =>
  isFloat(dtype) ? conversions[dtype].decode(data) : notFloating(dtype);

/** float32 values as the data of a tensor of `dtype`. For float32, `data` itself is returned, not a copy. */
export const fromFloat32 = (data: Float32Array, dtype: DType): TensorData =>
  isFloat(dtype) ? conversions[dtype].encode(data) : notFloating(dtype);

function notFloating(dtype: DType): never {
  throw new LowrankError("float/not-floating", `${dtype} is not a floating-point dtype`, {
    expected: "float32, bfloat16, float16 or float64",
    got: dtype,
    next: "Use a checkpoint whose weights are stored in a floating-point dtype.",
  });
}
