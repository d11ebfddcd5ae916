// GGUF's quantized types: blocks of elements that share scales, as ggml lays them out (ggml-common.h, ggml-quants.c), to float32.

/** Writes the elements of the block that begins at `source[from]` to `out[to]` and behind. */
type Dequantize = (source: Uint8Array, from: number, out: Float32Array, to: number) => void;

/** A quantized type. */
export interface BlockType {
  /** ggml's number of it. */
  id: number;
  /** Elements of a block; they lie in one row. */
  elements: number;
  /** Bytes of a block. */
  bytes: number;
  dequantize: Dequantize;
}

/** float32 of each float16 pattern, made at the first use. */
let halves: Float32Array | undefined;

function float16Table(): Float32Array {
  if (halves) return halves;
  halves = new Float32Array(1 << 16);
  for (let bits = 0; bits < halves.length; bits++) {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const special = fraction === 0 ? Number.POSITIVE_INFINITY : Number.NaN;
    const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? special : (1024 + fraction) * 2 ** (exponent - 25);
    halves[bits] = bits & 0x8000 ? -size : size;
  }
  return halves;
}

const half = (source: Uint8Array, at: number): number => float16Table()[source[at]! | (source[at + 1]! << 8)]!;

/** Levels of IQ4_NL. */
const LEVELS = Float32Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** Of Q4_K and Q5_K: scale `j` of eight in 12 bytes of 6-bit numbers, and the minimum that belongs to it. */
const scaleOf = (s: Uint8Array, at: number, j: number): number =>
  j < 4 ? s[at + j]! & 63 : (s[at + j + 4]! & 15) | ((s[at + j - 4]! >> 6) << 4);
const minimumOf = (s: Uint8Array, at: number, j: number): number =>
  j < 4 ? s[at + j + 4]! & 63 : (s[at + j + 4]! >> 4) | ((s[at + j]! >> 6) << 4);

const rows = {
  q4_0: {
    id: 2,
    elements: 32,
    bytes: 18,
    dequantize(s, from, out, to) {
      const d = half(s, from);
      for (let j = 0; j < 16; j++) {
        const q = s[from + 2 + j]!;
        out[to + j] = ((q & 15) - 8) * d;
        out[to + j + 16] = ((q >> 4) - 8) * d;
      }
    },
  },
  q4_1: {
    id: 3,
    elements: 32,
    bytes: 20,
    dequantize(s, from, out, to) {
      const [d, m] = [half(s, from), half(s, from + 2)];
      for (let j = 0; j < 16; j++) {
        const q = s[from + 4 + j]!;
        out[to + j] = (q & 15) * d + m;
        out[to + j + 16] = (q >> 4) * d + m;
      }
    },
  },
  q5_0: {
    id: 6,
    elements: 32,
    bytes: 22,
    dequantize(s, from, out, to) {
      const d = half(s, from);
      for (let j = 0; j < 16; j++) {
        const [q, k] = [s[from + 6 + j]!, j & 7];
        out[to + j] = (((q & 15) | (((s[from + 2 + (j >> 3)]! >> k) & 1) << 4)) - 16) * d;
        out[to + j + 16] = (((q >> 4) | (((s[from + 4 + (j >> 3)]! >> k) & 1) << 4)) - 16) * d;
      }
    },
  },
  q5_1: {
    id: 7,
    elements: 32,
    bytes: 24,
    dequantize(s, from, out, to) {
      const [d, m] = [half(s, from), half(s, from + 2)];
      for (let j = 0; j < 16; j++) {
        const [q, k] = [s[from + 8 + j]!, j & 7];
        out[to + j] = ((q & 15) | (((s[from + 4 + (j >> 3)]! >> k) & 1) << 4)) * d + m;
        out[to + j + 16] = ((q >> 4) | (((s[from + 6 + (j >> 3)]! >> k) & 1) << 4)) * d + m;
      }
    },
  },
  q8_0: {
    id: 8,
    elements: 32,
    bytes: 34,
    dequantize(s, from, out, to) {
      const d = half(s, from);
      for (let j = 0; j < 32; j++) out[to + j] = ((s[from + 2 + j]! << 24) >> 24) * d;
    },
  },
  q2_k: {
    id: 10,
    elements: 256,
    bytes: 84,
    // 16 bytes of a scale and a minimum each, 64 of 2 bits an element, d, dmin
    dequantize(s, from, out, to) {
      const [d, dmin] = [half(s, from + 80), half(s, from + 82)];
      for (let group = 0; group < 16; group++) {
        const scale = s[from + group]!;
        const [dl, ml] = [d * (scale & 15), dmin * (scale >> 4)];
        const q = from + 16 + (group >> 3) * 32 + (group & 1) * 16;
        const shift = group & 6;
        for (let l = 0; l < 16; l++) out[to + group * 16 + l] = dl * ((s[q + l]! >> shift) & 3) - ml;
      }
    },
  },
  q3_k: {
    id: 11,
    elements: 256,
    bytes: 110,
    // 32 bytes of high bits, 64 of 2 bits an element, 12 of 6-bit scales, d
    dequantize(s, from, out, to) {
      const d = half(s, from + 108);
      for (let group = 0; group < 16; group++) {
        const low = (s[from + 96 + (group & 7)]! >> (group & 8 ? 4 : 0)) & 15;
        const high = (s[from + 104 + (group & 3)]! >> (2 * (group >> 2))) & 3;
        const dl = d * ((low | (high << 4)) - 32);
        const [q, h] = [from + 32 + (group >> 3) * 32 + (group & 1) * 16, from + (group & 1) * 16];
        const [shift, bit] = [group & 6, group >> 1];
        for (let l = 0; l < 16; l++) {
          out[to + group * 16 + l] = dl * (((s[q + l]! >> shift) & 3) - ((s[h + l]! >> bit) & 1 ? 0 : 4));
        }
      }
    },
  },
  q4_k: {
    id: 12,
    elements: 256,
    bytes: 144,
    // d, dmin, 12 bytes of scales and minima, 128 of 4 bits an element
    dequantize(s, from, out, to) {
      const [d, dmin] = [half(s, from), half(s, from + 2)];
      for (let pair = 0; pair < 4; pair++) {
        const [d1, m1] = [d * scaleOf(s, from + 4, 2 * pair), dmin * minimumOf(s, from + 4, 2 * pair)];
        const [d2, m2] = [d * scaleOf(s, from + 4, 2 * pair + 1), dmin * minimumOf(s, from + 4, 2 * pair + 1)];
        const [q, y] = [from + 16 + pair * 32, to + pair * 64];
        for (let l = 0; l < 32; l++) {
          out[y + l] = d1 * (s[q + l]! & 15) - m1;
          out[y + l + 32] = d2 * (s[q + l]! >> 4) - m2;
        }
      }
    },
  },
  q5_k: {
    id: 13,
    elements: 256,
    bytes: 176,
    // d, dmin, 12 bytes of scales and minima, 32 of high bits, 128 of 4 bits an element
    dequantize(s, from, out, to) {
      const [d, dmin] = [half(s, from), half(s, from + 2)];
      for (let pair = 0; pair < 4; pair++) {
        const [d1, m1] = [d * scaleOf(s, from + 4, 2 * pair), dmin * minimumOf(s, from + 4, 2 * pair)];
        const [d2, m2] = [d * scaleOf(s, from + 4, 2 * pair + 1), dmin * minimumOf(s, from + 4, 2 * pair + 1)];
        const [q, h, y] = [from + 48 + pair * 32, from + 16, to + pair * 64];
        for (let l = 0; l < 32; l++) {
          const high = s[h + l]! >> (2 * pair);
          out[y + l] = d1 * ((s[q + l]! & 15) | ((high & 1) << 4)) - m1;
          out[y + l + 32] = d2 * ((s[q + l]! >> 4) | ((high & 2) << 3)) - m2;
        }
      }
    },
  },
  q6_k: {
    id: 14,
    elements: 256,
    bytes: 210,
    // 128 bytes of low 4 bits, 64 of high 2 bits, 16 int8 scales, d
    dequantize(s, from, out, to) {
      const d = half(s, from + 208);
      const scale = (i: number): number => d * ((s[from + 192 + i]! << 24) >> 24);
      for (let part = 0; part < 4; part++) {
        const [side, n] = [part & 1, part >> 1]; // 16 columns of one half of the block
        const [low, high] = [from + n * 64 + side * 16, from + 128 + n * 32 + side * 16];
        const [s0, s1, s2, s3] = [scale(n * 8 + side), scale(n * 8 + side + 2), scale(n * 8 + side + 4), scale(n * 8 + side + 6)];
        const y = to + n * 128 + side * 16;
        for (let l = 0; l < 16; l++) {
          const [a, b, h] = [s[low + l]!, s[low + l + 32]!, s[high + l]!];
          out[y + l] = s0 * (((a & 15) | ((h & 3) << 4)) - 32);
          out[y + l + 32] = s1 * (((b & 15) | ((h & 12) << 2)) - 32);
          out[y + l + 64] = s2 * (((a >> 4) | (h & 48)) - 32);
          out[y + l + 96] = s3 * (((b >> 4) | ((h & 192) >> 2)) - 32);
        }
      }
    },
  },
  iq4_nl: {
    id: 20,
    elements: 32,
    bytes: 18,
    dequantize(s, from, out, to) {
      const d = half(s, from);
      for (let j = 0; j < 16; j++) {
        const q = s[from + 2 + j]!;
        out[to + j] = d * LEVELS[q & 15]!;
        out[to + j + 16] = d * LEVELS[q >> 4]!;
      }
    },
  },
} satisfies Record<string, BlockType>;

export type BlockDType = keyof typeof rows;

/** The quantized types that can be read, by dtype. */
export const blockTypes: Readonly<Record<BlockDType, BlockType>> = rows;

export const isBlockDType = (dtype: string): dtype is BlockDType => Object.hasOwn(blockTypes, dtype);

/** The elements of whole blocks. */
export function dequantize(dtype: BlockDType, source: Uint8Array): Float32Array {
  const { elements, bytes, dequantize: one } = blockTypes[dtype];
  const out = new Float32Array((source.length / bytes) * elements);
  for (let from = 0, to = 0; to < out.length; from += bytes, to += elements) one(source, from, out, to);
  return out;
}
