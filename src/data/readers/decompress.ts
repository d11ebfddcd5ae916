// Pages of Parquet unpacked, by hyparquet-compressors, where a page that is longer than its header states is stopped there.
import { compressors, decompressZstd } from "hyparquet-compressors";
// @ts-expect-error This file of the package has no type declarations.
import { BrotliOutput } from "hyparquet-compressors/src/brotli.streams.js";
import { Broken } from "./parquet-checks.ts";

/** No codec makes a page longer by more than this share and a few bytes; what is longer was not written by one. */
const MAX_GROWTH = 1.2;

const tooLong = (): Broken => new Broken("a page that is longer than its header states");

/** A page of `size` bytes. Throws `Broken`, and what the decompressors throw. */
export async function decompress(packed: Uint8Array, size: number, codec: string): Promise<Uint8Array> {
  if (packed.length > size * MAX_GROWTH + 1024) throw new Broken(`a page of ${packed.length} bytes, packed, that holds ${size}`);
  if (size === 0) return new Uint8Array();
  if (codec === "GZIP") return gunzip(packed, size);
  if (codec === "ZSTD") return decompressZstd(packed, new Uint8Array(size));
  if (codec === "LZ4" || codec === "LZ4_RAW") return decompressLz4(packed, size, codec);
  const decompressor = compressors[codec as keyof typeof compressors];
  if (decompressor === undefined) throw new Broken(`the compression ${codec}; there are SNAPPY, GZIP, ZSTD, BROTLI, LZ4`);
  return decompressor(packed, size);
}

/** By the platform's own, which can be stopped at `size`. */
async function gunzip(packed: Uint8Array, size: number): Promise<Uint8Array> {
  const page = new Uint8Array(size);
  let at = 0;
  const stream = new Blob([packed as Uint8Array<ArrayBuffer>]).stream().pipeThrough(new DecompressionStream("gzip"));
  for await (const part of stream as unknown as AsyncIterable<Uint8Array>) {
    if (at + part.length > size) throw tooLong();
    page.set(part, at);
    at += part.length;
  }
  return page.subarray(0, at);
}

const buffers = new WeakMap<object, Uint8Array>();

// The package makes its output larger for whatever the data say, without end: 800 bytes become half a gigabyte in a minute.
Object.defineProperty(BrotliOutput.prototype, "buffer", {
  get() {
    return buffers.get(this);
  },
  set(buffer: Uint8Array) {
    if (buffer.length > (buffers.get(this)?.length ?? Number.POSITIVE_INFINITY)) throw tooLong();
    buffers.set(this, buffer);
  },
});

/** Blocks of LZ4, of Hadoop with the sizes in front of each, whose lengths are added up first: the package copies past the end. */
function decompressLz4(packed: Uint8Array, size: number, codec: "LZ4" | "LZ4_RAW"): Uint8Array {
  if (codec === "LZ4" && isHadoop(packed, size)) return compressors.LZ4!(packed, size);
  if (lz4Length(packed, size) !== size) throw new Broken("a page of another size than its header states");
  return compressors.LZ4_RAW!(packed, size);
}

function isHadoop(packed: Uint8Array, size: number): boolean {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  let made = 0;
  for (let at = 0; at < packed.length; ) {
    if (at + 8 > packed.length) return false;
    const [length, stored] = [view.getUint32(at), view.getUint32(at + 4)];
    at += 8;
    made += length;
    if (stored > packed.length - at || made > size) return false;
    if (lz4Length(packed.subarray(at, at + stored), length) !== length) return false;
    at += stored;
  }
  return made === size;
}

/** How many bytes a block becomes; some number above `most` if more. */
function lz4Length(block: Uint8Array, most: number): number {
  let made = 0;
  let at = 0;
  const length = (nibble: number): number => {
    let sum = nibble;
    for (let byte = nibble === 15 ? 255 : 0; byte === 255; sum += byte) byte = block[at++] ?? 0;
    return sum;
  };
  while (at < block.length && made <= most) {
    const token = block[at++]!;
    const literals = length(token >> 4);
    made += literals;
    at += literals;
    if (at >= block.length) break;
    at += 2;
    made += length(token & 15) + 4;
  }
  return made;
}
