// PNG files made by hand, so that their headers can say what an encoder would not.
import { crc32, deflateSync } from "node:zlib";

/** Kinds of pixels by PNG's number. */
export const COLOUR = { gray: 0, rgb: 2, palette: 3, rgba: 6 } as const;

export interface PngHeader {
  width: number;
  height: number;
  depth?: number;
  colour?: number;
}

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}

/** A PNG with this header and these rows, none of which begins with its filter: that is put before. */
export function png({ width, height, depth = 8, colour = COLOUR.rgb }: PngHeader, rows: readonly Uint8Array[]): Uint8Array {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header[8] = depth;
  header[9] = colour;
  const pixels = deflateSync(Buffer.concat(rows.flatMap((row) => [Buffer.of(0), row])));
  const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  const parts = [signature, chunk("IHDR", header), chunk("IDAT", pixels), chunk("IEND", new Uint8Array())];
  return new Uint8Array(Buffer.concat(parts));
}
