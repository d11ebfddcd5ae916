// Pages of Parquet that unpack to more than they say: each is stopped at its size, soon.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { decompress } from "../../src/data/readers/decompress.ts";
import { Broken } from "../../src/data/readers/parquet-checks.ts";
import { slow } from "../helpers/slow.ts";

const MAX_MS = 2_000;
const zeros = (megabytes: number) => new Uint8Array(megabytes << 20);
const brotli = (bytes: Uint8Array) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 2 } });
/** One byte, and a match of it that is `times` · 255 bytes longer. */
const lz4 = (times: number) => Uint8Array.of(0x1f, 0x61, 1, 0, ...new Uint8Array(times).fill(255), 0, 0x10, 0x61);
const hadoop = (says: number, block: Uint8Array) => {
  const head = new DataView(new ArrayBuffer(8));
  head.setUint32(0, says);
  head.setUint32(4, block.length);
  return Uint8Array.of(...new Uint8Array(head.buffer), ...block);
};

describe("pages that unpack to more than they say", slow, () => {
  const bombs: [name: string, codec: string, size: number, packed: () => Uint8Array][] = [
    ["Brotli, 32 MB in a kilobyte", "BROTLI", 1000, () => brotli(zeros(32))],
    ["Brotli, 32 MB in 4 MB", "BROTLI", 4 << 20, () => brotli(zeros(32))],
    ["gzip, 32 MB", "GZIP", 1 << 20, () => gzipSync(zeros(32))],
    ["LZ4, 4 GB in 16 MB", "LZ4_RAW", 16 << 20, () => largeLz4()],
    ["LZ4, 4 GB in a block of Hadoop's", "LZ4", 16 << 20, () => hadoopOf(largeLz4())],
    ["LZ4, fewer bytes than it says", "LZ4_RAW", 1 << 20, () => lz4(10)],
  ];
  for (const [name, codec, size, packed] of bombs) {
    it(name, { timeout: 60_000 }, async () => {
      const page = packed();
      const began = performance.now();
      await assert.rejects(decompress(page, size, codec), Broken);
      assert.ok(performance.now() - began < MAX_MS, `${performance.now() - began} ms`);
    });
  }
});

/** As `lz4(16 << 20)`, which has too many arguments. */
function largeLz4(): Uint8Array {
  const block = new Uint8Array(16 << 20).fill(255);
  block.set([0x1f, 0x61, 1, 0]);
  block.set([0, 0x10, 0x61], block.length - 3);
  return block;
}

function hadoopOf(block: Uint8Array): Uint8Array {
  const page = new Uint8Array(block.length + 8);
  new DataView(page.buffer).setUint32(0, 16 << 20);
  new DataView(page.buffer).setUint32(4, block.length);
  page.set(block, 8);
  return page;
}

it("pages of their size unpack", async () => {
  const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => (i * i) % 251);
  assert.deepEqual(await decompress(brotli(bytes), bytes.length, "BROTLI"), bytes);
  assert.deepEqual(await decompress(brotli(zeros(4)), 4 << 20, "BROTLI"), zeros(4));
  const block = lz4(4); // 1 + 4·255 + 15 + 4 bytes, and one more
  const size = 1 + 4 * 255 + 15 + 4 + 1;
  const wanted = new Uint8Array(size).fill(0x61);
  assert.deepEqual(await decompress(block, size, "LZ4_RAW"), wanted);
  assert.deepEqual(await decompress(block, size, "LZ4"), wanted);
  assert.deepEqual(await decompress(hadoop(size, block), size, "LZ4"), wanted);
});
