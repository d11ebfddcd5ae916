// bfloat16 and float16 bit patterns to and from float32, rounding to nearest, ties to even (IEEE 754-2019, 4.3.1).
import { LowrankError } from "../errors.ts";
import type { DType, Tensor, TensorData } from "../tensor.ts";

/** The dtypes that arithmetic is defined on. */
export type FloatDType = "float64" | "float32" | "float16" | "bfloat16";

export const isFloat = (dtype: string): dtype is FloatDType =>
  dtype === "float32" || dtype === "bfloat16" || dtype === "float16" || dtype === "float64";

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

/** The elements of a floating tensor as float32. A float32 tensor's own array is returned, not a copy. */
export function toFloat32(tensor: Tensor): Float32Array {
  switch (tensor.dtype) {
    case "float32":
      return tensor.data as Float32Array;
    case "bfloat16":
      return bfloat16ToFloat32(tensor.data as Uint16Array);
    case "float16":
      return float16ToFloat32(tensor.data as Uint16Array);
    case "float64":
      return Float32Array.from(tensor.data as Float64Array);
    default:
      return notFloating(tensor.dtype);
  }
}

/** float32 values as the data of a tensor of `dtype`. For float32, `data` itself is returned, not a copy. */
export function fromFloat32(data: Float32Array, dtype: DType): TensorData {
  switch (dtype) {
    case "float32":
      return data;
    case "bfloat16":
      return float32ToBfloat16(data);
    case "float16":
      return float32ToFloat16(data);
    case "float64":
      return Float64Array.from(data);
    default:
      return notFloating(dtype);
  }
}

function notFloating(dtype: DType): never {
  throw new LowrankError("float/not-floating", `${dtype} is not a floating-point dtype`, {
    expected: "float32, bfloat16, float16 or float64",
    got: dtype,
    next: "Use a checkpoint whose weights are stored in a floating-point dtype.",
  });
}
