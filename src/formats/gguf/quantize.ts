// The types that tensors of a GGUF file are written in, from float32. Blocks as ggml's reference has them (ggml-quants.c), to the bit.
import { bytesOf } from "../dtypes.ts";
import { allFinite, float32ToFloat16, fromFloat32 } from "../float.ts";

interface Writable {
  /** ggml's number of the type, and of a file that is mostly in it (llama.h's llama_ftype). */
  id: number;
  fileType: number;
  /** Elements of a block, which lie in one row, and its bytes. */
  elements: number;
  bytes: number;
  /** The bytes of whole blocks; null if a value is not finite, or not within the type's range. */
  encode(values: Float32Array): Uint8Array | null;
}

const plain = (dtype: "float32" | "float16" | "bfloat16") => (values: Float32Array) => {
  const bytes = bytesOf(fromFloat32(values, dtype));
  return allFinite(bytes, dtype) ? bytes : null;
};

/** Blocks of 32 elements that share a float16: `quantise` writes the rest of a block behind it and returns the scale. */
function blocks(bytes: number, quantise: (values: Float32Array, from: number, out: Uint8Array, at: number) => number) {
  return (values: Float32Array): Uint8Array | null => {
    const count = values.length / BLOCK;
    const out = new Uint8Array(count * bytes);
    const scales = new Float32Array(count);
    for (let i = 0; i < count; i++) scales[i] = quantise(values, i * BLOCK, out, i * bytes + 2);
    const halves = float32ToFloat16(scales);
    if (!allFinite(bytesOf(halves), "float16") || !allFinite(bytesOf(values), "float32")) return null;
    for (let i = 0; i < count; i++) {
      out[i * bytes] = halves[i]! & 255;
      out[i * bytes + 1] = halves[i]! >> 8;
    }
    return out;
  };
}
const BLOCK = 32;
const f32 = Math.fround;

/** Half away from zero, as C's roundf. */
const rounded = (value: number): number => Math.sign(value) * Math.floor(Math.abs(value) + 0.5);

function q8(values: Float32Array, from: number, out: Uint8Array, at: number): number {
  let most = 0;
  for (let j = 0; j < BLOCK; j++) most = Math.max(most, Math.abs(values[from + j]!));
  const scale = f32(most / 127);
  const inverse = scale === 0 ? 0 : f32(1 / scale);
  for (let j = 0; j < BLOCK; j++) out[at + j] = rounded(f32(values[from + j]! * inverse)) & 255;
  return scale;
}

function q4(values: Float32Array, from: number, out: Uint8Array, at: number): number {
  let most = 0;
  for (let j = 0; j < BLOCK; j++) if (Math.abs(values[from + j]!) > Math.abs(most)) most = values[from + j]!;
  const scale = f32(most / -8);
  const inverse = scale === 0 ? 0 : f32(1 / scale);
  const level = (j: number): number => Math.min(15, Math.trunc(f32(f32(values[from + j]! * inverse) + 8.5)));
  for (let j = 0; j < BLOCK / 2; j++) out[at + j] = level(j) | (level(j + BLOCK / 2) << 4);
  return scale;
}

const rows = {
  f32: { id: 0, fileType: 0, elements: 1, bytes: 4, encode: plain("float32") },
  f16: { id: 1, fileType: 1, elements: 1, bytes: 2, encode: plain("float16") },
  bf16: { id: 30, fileType: 32, elements: 1, bytes: 2, encode: plain("bfloat16") },
  q8_0: { id: 8, fileType: 7, elements: BLOCK, bytes: 34, encode: blocks(34, q8) },
  q4_0: { id: 2, fileType: 2, elements: BLOCK, bytes: 18, encode: blocks(18, q4) },
} satisfies Record<string, Writable>;

export type WritableType = keyof typeof rows;
/** The types that can be written, by their names. */
export const writableTypes: Readonly<Record<WritableType, Writable>> = rows;
export const writableNames = Object.keys(rows) as [WritableType, ...WritableType[]];
