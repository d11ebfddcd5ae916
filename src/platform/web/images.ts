// Image files to pixels by the browser's decoders (createImageBitmap), which turn an image upright by themselves.
import { checkImageSize, type DecodeImage, damagedImage, type ImageFormat, imageFormat, overWhite } from "../../images/image.ts";

const types: Record<ImageFormat, string> = { PNG: "image/png", JPEG: "image/jpeg", WebP: "image/webp" };

export const decodeImage: DecodeImage = async (file, name) => {
  const format = imageFormat(file, name);
  const { channels, size } = headerOf[format](new DataView(file.buffer, file.byteOffset, file.byteLength));
  if (size) checkImageSize(size[0], size[1], name);
  const bitmap = await createImageBitmap(new Blob([file as Uint8Array<ArrayBuffer>], { type: types[format] }), {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  }).catch((cause) => Promise.reject(damagedImage(name, cause)));
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  return { name, width, height, data: overWhite(new Uint8Array(data.buffer)), channels, orientation: 1 };
};

/** What the first bytes of a file say; without a size where it is found only by decoding, or the header is damaged. */
interface Header {
  channels: number;
  size?: [width: number, height: number];
}

const headerOf: Record<ImageFormat, (view: DataView) => Header> = { PNG: pngHeader, JPEG: jpegHeader, WebP: webpHeader };

/** IHDR: the size, and the colour type (gray 0, RGB 2, palette 3, gray with alpha 4, RGB with alpha 6). */
function pngHeader(view: DataView): Header {
  if (view.byteLength < 26) return { channels: 3 };
  const channels = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[view.getUint8(25)] ?? 3;
  return { channels, size: [view.getUint32(16), view.getUint32(20)] };
}

/** The frame header (SOF0 to SOF15 but DHT, JPG and DAC), behind the segments before it. */
function jpegHeader(view: DataView): Header {
  for (let at = 2; at + 9 < view.byteLength; at += 2 + view.getUint16(at + 2)) {
    const marker = view.getUint8(at + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return { channels: view.getUint8(at + 9), size: [view.getUint16(at + 7), view.getUint16(at + 5)] };
  }
  return { channels: 3 };
}

/** Alpha is a flag of VP8X and of VP8L; VP8 alone has none. */
function webpHeader(view: DataView): Header {
  if (view.byteLength < 30) return { channels: 3 };
  const kind = view.getUint8(15);
  if (kind === "X".charCodeAt(0)) {
    const side = (at: number) => 1 + view.getUint16(at, true) + 65536 * view.getUint8(at + 2);
    return { channels: view.getUint8(20) & 0x10 ? 4 : 3, size: [side(24), side(27)] };
  }
  if (kind === "L".charCodeAt(0)) {
    const bits = view.getUint32(21, true);
    return { channels: (bits >> 28) & 1 ? 4 : 3, size: [1 + (bits & 0x3fff), 1 + ((bits >> 14) & 0x3fff)] };
  }
  return { channels: 3, size: [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff] };
}
