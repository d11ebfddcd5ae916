// Resampling as Pillow does it (src/libImaging/Resample.c): separable filters that widen when an image shrinks, in two passes of
// 8-bit fixed-point arithmetic. Equal to Pillow 13 to the bit; Pillow 12 always resamples rows before columns.
import { LowrankError } from "../errors.ts";
import { grouped } from "../units.ts";
import type { RgbImage } from "./image.ts";

/** Most pixels of a resized image: twice the 4096 × 4096 that the largest processors ask for. */
export const MAX_RESIZED_PIXELS = 2 ** 25;

/** Bits after the point of a coefficient: 32 less 8 of a byte and 2 for sums that overshoot. */
const PRECISION_BITS = 32 - 8 - 2;

interface Filter {
  /** Half the width in pixels of the smaller image. */
  support: number;
  weight(x: number): number;
}

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
/** The parameter of the cubic: Keys' own. */
const a = -0.5;

/** Filters by Pillow's number, which `preprocessor_config.json` holds as `resample`. */
const filters: Record<number, Filter> = {
  1: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
  2: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  3: {
    support: 2,
    weight(signed) {
      const x = Math.abs(signed);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
};

/** The values of `resample` that are known, with their names. */
export const RESAMPLE = { lanczos: 1, bilinear: 2, bicubic: 3 } as const;

/** For each pixel of a line of `outSize`: the first pixel of the input that counts, how many do, and their coefficients. */
interface Coefficients {
  starts: Int32Array;
  counts: Int32Array;
  /** `stride` for each pixel, of which `counts` are used. */
  weights: Int32Array;
  stride: number;
}

function coefficients(inSize: number, outSize: number, { support: halfWidth, weight }: Filter): Coefficients {
  const scale = inSize / outSize;
  const filterScale = Math.max(scale, 1);
  const support = halfWidth * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(outSize);
  const counts = new Int32Array(outSize);
  const weights = new Int32Array(outSize * stride);
  const exact = new Float64Array(stride);
  for (let out = 0; out < outSize; out++) {
    const center = (out + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(inSize, Math.trunc(center + support + 0.5)) - start;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      exact[i] = weight((i + start - center + 0.5) * (1 / filterScale));
      sum += exact[i]!;
    }
    for (let i = 0; i < count; i++) {
      const share = sum === 0 ? exact[i]! : exact[i]! / sum;
      weights[out * stride + i] = Math.trunc((share < 0 ? -0.5 : 0.5) + share * (1 << PRECISION_BITS));
    }
    starts[out] = start;
    counts[out] = count;
  }
  return { starts, counts, weights, stride };
}

const HALF = 1 << (PRECISION_BITS - 1);

/**
 * Resamples along one axis. The `lines` lie `lineStep` bytes apart in the input and `outLineStep` in the output; the pixels
 * of a line lie `step` bytes apart in both.
 */
function resampleAxis(
  data: Uint8Array,
  out: Uint8ClampedArray,
  { starts, counts, weights, stride }: Coefficients,
  layout: { lines: number; lineStep: number; outLineStep: number; step: number },
): void {
  const { lines, lineStep, outLineStep, step } = layout;
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < starts.length; i++) {
      let from = line * lineStep + starts[i]! * step;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      const first = i * stride;
      const end = first + counts[i]!;
      for (let k = first; k < end; k++, from += step) {
        const weight = weights[k]!;
        red += data[from]! * weight;
        green += data[from + 1]! * weight;
        blue += data[from + 2]! * weight;
      }
      const to = line * outLineStep + i * step;
      out[to] = red >> PRECISION_BITS;
      out[to + 1] = green >> PRECISION_BITS;
      out[to + 2] = blue >> PRECISION_BITS;
    }
  }
}

/** The image at another size in pixels, with one of Pillow's filters: `Image.resize((width, height), resample)`. */
export function resize(image: RgbImage, width: number, height: number, resample: number): RgbImage {
  const filter = filters[resample]!;
  if (width * height > MAX_RESIZED_PIXELS) {
    throw new LowrankError("image/resize", "the image would become too large when it is resized for the model", {
      subject: image.name,
      expected: `at most ${grouped(MAX_RESIZED_PIXELS)} pixels`,
      got: `${image.width} × ${image.height} pixels become ${grouped(width)} × ${grouped(height)}`,
      next: "Crop the image: its sides differ too much.",
    });
  }
  const [narrower, lower] = [image.width - width, image.height - height];
  const columnsFirst = lower > 0 && lower > 2 * narrower;
  const axes = columnsFirst ? (["height", "width"] as const) : (["width", "height"] as const);
  return axes.reduce((from, axis) => resizeAxis(from, axis, { width, height }[axis], filter), image);
}

/** Resamples every row to a width of `size` pixels, or every column to a height. */
function resizeAxis(image: RgbImage, axis: "width" | "height", size: number, filter: Filter): RgbImage {
  if (size === image[axis]) return image;
  const resized = { ...image, [axis]: size };
  const { width, height } = resized;
  const out = new Uint8ClampedArray(3 * width * height);
  const layout =
    axis === "width"
      ? { lines: height, lineStep: 3 * image.width, outLineStep: 3 * width, step: 3 }
      : { lines: width, lineStep: 3, outLineStep: 3, step: 3 * width };
  resampleAxis(image.data, out, coefficients(image[axis], size, filter), layout);
  return { ...resized, data: new Uint8Array(out.buffer) };
}
