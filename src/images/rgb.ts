// Pixels of four channels as RGB, by Pillow's integer arithmetic, so that they are equal to its to the bit.

/** (a · b + more) / 255, rounded. */
function share(a: number, b: number, more = 0): number {
  const product = a * b + more + 128;
  return ((product >> 8) + product) >> 8;
}

/** CMYK, 255 being all of an ink: Pillow's `convert("RGB")`. */
export function fromCmyk(cmyk: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((cmyk.length / 4) * 3);
  for (let from = 0, to = 0; from < cmyk.length; from += 4) {
    const light = 255 - cmyk[from + 3]!;
    for (let i = 0; i < 3; i++) rgb[to++] = Math.max(0, light - share(cmyk[from + i]!, light));
  }
  return rgb;
}

/** RGBA on a white background, as Transformers' `convert_to_rgb` does it with Pillow's `alpha_composite`. */
export function overWhite(rgba: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = rgba[from + 3]!;
    for (let i = 0; i < 3; i++) rgb[to++] = share(rgba[from + i]!, alpha, 255 * (255 - alpha));
  }
  return rgb;
}
