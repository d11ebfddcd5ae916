// Malformed weight files and indexes: each is refused for its own reason, and no byte of a payload is read.
// slow
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MAX_SHARDS, openCheckpoint } from "../../src/formats/checkpoint.ts";
import { MAX_JSON_DEPTH } from "../../src/formats/json.ts";
import { MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, readHeader } from "../../src/formats/safetensors.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const GOOD = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}';

/** A file of a header, a payload, and the length field (the header's own unless given). */
function file(header: string | Uint8Array, payload = 8, length?: bigint): Uint8Array {
  const head = Buffer.alloc(8);
  const text = Buffer.from(header);
  head.writeBigUInt64LE(length ?? BigInt(text.length));
  return new Uint8Array(Buffer.concat([head, text, Buffer.alloc(payload, 0xee)]));
}

/** A file of one tensor "a" whose entry has these members. */
const entry = (dtype: string, shape: string, offsets: string, payload = 8) =>
  file(`{"a":{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}}`, payload);

/** A file of F32 tensors at these offsets. */
const placed = (payload: number, ...offsets: [number, number][]) =>
  file(
    `{${offsets.map(([begin, end], i) => `"t${i}":{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`).join(",")}}`,
    payload,
  );

const manyTensors = () => {
  const entries = Array.from({ length: MAX_TENSORS + 1 }, (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`);
  return file(`{${entries.join(",")}}`, 0);
};

/** What is wrong with the file, the reason it is refused for, what the message says, the file. */
const FILES: [title: string, reason: string, message: RegExp, bytes: () => Uint8Array][] = [
  ["an empty file", "too-small", /length field/, () => new Uint8Array()],
  ["7 bytes", "too-small", /length field/, () => new Uint8Array(7)],
  ["a header of no bytes", "header-empty", /no bytes/, () => file("")],
  ["a header one byte past the limit", "header-too-large", /too large/, () => file(`{${GOOD}}`, 8, BigInt(MAX_HEADER_BYTES + 1))],
  ["a header length of 2^64 - 1", "header-too-large", /too large/, () => file(`{${GOOD}}`, 8, 2n ** 64n - 1n)],
  ["a header length with the top bit alone", "header-too-large", /too large/, () => file(`{${GOOD}}`, 8, 2n ** 63n)],
  ["a header length past the file's end", "header-past-end", /longer than the file/, () => file(`{${GOOD}}`, 0, 1000n)],
  ["a header that ends one byte past the file", "header-past-end", /longer than the file/, () => file("{}", 0, 3n)],
  [
    "a header cut short by its length",
    "json-truncated",
    /continues without/,
    () => file(`{${GOOD}}`, 8, BigInt(GOOD.length + 1)),
  ],
  ["a header that starts with a space", "header-start", /start with \{/, () => file(` {${GOOD}}`)],
  ["a byte order mark", "header-start", /start with \{/, () => file(`\ufeff{${GOOD}}`)],
  ["an array", "header-start", /start with \{/, () => file("[]", 0)],
  ["a pickle", "header-start", /start with \{/, () => file("\x80\x02}q\x00.")],
  ["a lone continuation byte", "utf8", /UTF-8/, () => file(Buffer.from([0x7b, 0x22, 0x80, 0x22, 0x7d]), 0)],
  ["an overlong slash", "utf8", /UTF-8/, () => file(Buffer.from([0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x7d]), 0)],
  ["a surrogate in UTF-8", "utf8", /UTF-8/, () => file(Buffer.from([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x7d]), 0)],
  ["an escaped lone surrogate", "json-escape", /stands for no character/, () => file('{"\\ud800":1}', 0)],
  ["an unknown escape", "json-escape", /stands for no character/, () => file('{"\\x41":1}', 0)],
  ["a raw line break in a name", "json-control-character", /control character/, () => file(`{"a\nb":1}`, 0)],
  ["a string without an end", "json-truncated", /does not end/, () => file('{"abc', 0)],
  ["a string that ends in a backslash", "json-truncated", /does not end/, () => file('{"abc\\', 0)],
  ["a missing colon", "json-syntax", /a : was expected/, () => file('{"a" 1}', 0)],
  ["a comma before the end", "json-syntax", /a string was expected/, () => file(`{${GOOD},}`)],
  ["a key without quotes", "json-syntax", /a string was expected/, () => file("{a:1}", 0)],
  ["NaN for a value", "json-syntax", /a value was expected/, () => entry('"F32"', "[NaN]", "[0,8]")],
  ["a leading zero", "json-syntax", /continues without/, () => entry('"F32"', "[02]", "[0,8]")],
  ["a comment", "json-syntax", /a string was expected/, () => file(`{/**/${GOOD}}`)],
  ["zero bytes after the header's text", "json-trailing", /something follows/, () => file(`{${GOOD}}\0\0`)],
  ["a second object", "json-trailing", /something follows/, () => file(`{${GOOD}}{}`)],
  ["arrays without end", "json-depth", /nested deeper/, () => file(`{"a":${"[".repeat(1_000_000)}`, 0)],
  [
    "one level too many",
    "json-depth",
    /nested deeper/,
    () => file(`{"a":${"[".repeat(MAX_JSON_DEPTH)}${"]".repeat(MAX_JSON_DEPTH)}}`, 0),
  ],
  ["a shape of millions", "json-values", /values/, () => entry('"F32"', `[${"0,".repeat(4_200_000)}0]`, "[0,0]", 0)],
  ["too many tensors", "too-many-tensors", /too many tensors/, manyTensors],
  ["the same tensor twice", "duplicate-key", /"a" occurs twice/, () => file(`{${GOOD},${GOOD}}`)],
  ["the same name, once escaped", "duplicate-key", /"a" occurs twice/, () => file(`{${GOOD},"\\u0061":{}}`)],
  ["__proto__ twice", "duplicate-key", /"__proto__" occurs twice/, () => file('{"__proto__":{},"__proto__":{}}', 0)],
  ["__metadata__ twice", "duplicate-key", /"__metadata__" occurs twice/, () => file('{"__metadata__":{},"__metadata__":{}}', 0)],
  [
    "a field of an entry twice",
    "duplicate-key",
    /"shape" occurs twice/,
    () => file('{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}'),
  ],
  ["a metadata key twice", "duplicate-key", /"k" occurs twice/, () => file(`{"__metadata__":{"k":"1","k":"2"},${GOOD}}`)],
  ["metadata that is a list", "metadata", /not an object/, () => file(`{"__metadata__":[],${GOOD}}`)],
  ["metadata that is null", "metadata", /not an object/, () => file(`{"__metadata__":null,${GOOD}}`)],
  ["a number in the metadata", "metadata-value", /under "epoch"/, () => file(`{"__metadata__":{"epoch":1},${GOOD}}`)],
  ["an object in the metadata", "metadata-value", /under "__proto__"/, () => file(`{"__metadata__":{"__proto__":{}},${GOOD}}`)],
  ["a number for an entry", "entry", /"a" is not an object/, () => file('{"a":1}', 0)],
  ["a list for an entry", "entry", /"a" is not an object/, () => file('{"a":["F32",[2],[0,8]]}')],
  ["an entry of __proto__ that is null", "entry", /"__proto__" is not an object/, () => file('{"__proto__":null}', 0)],
  ["no dtype", "missing-field", /has no dtype/, () => file('{"a":{"shape":[2],"data_offsets":[0,8]}}')],
  ["no shape", "missing-field", /has no shape/, () => file('{"a":{"dtype":"F32","data_offsets":[0,8]}}')],
  ["no offsets", "missing-field", /has no data_offsets/, () => file('{"a":{"dtype":"F32","shape":[2]}}')],
  [
    "a dtype inherited by __proto__",
    "missing-field",
    /has no dtype/,
    () => file('{"a":{"__proto__":{"dtype":"F32"},"shape":[2],"data_offsets":[0,8]}}'),
  ],
  ["an unknown dtype", "dtype", /unknown dtype/, () => entry('"F33"', "[2]", "[0,8]")],
  ["a dtype in lower case", "dtype", /unknown dtype/, () => entry('"f32"', "[2]", "[0,8]")],
  ["a dtype of Object.prototype", "dtype", /unknown dtype/, () => entry('"toString"', "[2]", "[0,8]")],
  ["a number for a dtype", "dtype", /unknown dtype/, () => entry("32", "[2]", "[0,8]")],
  ["a number for a shape", "shape", /shape of tensor "a" is not an array/, () => entry('"F32"', "2", "[0,8]")],
  ["too many dimensions", "rank", /too many dimensions/, () => entry('"U8"', `[${"1,".repeat(MAX_RANK)}8]`, "[0,8]")],
  ["a negative dimension", "integer", /a dimension of/, () => entry('"F32"', "[-2]", "[0,8]")],
  ["minus zero", "integer", /a dimension of/, () => entry('"F32"', "[-0]", "[0,0]", 0)],
  ["a fraction", "integer", /a dimension of/, () => entry('"F32"', "[2.5]", "[0,10]", 10)],
  ["an integer written as a fraction", "integer", /a dimension of/, () => entry('"F32"', "[2.0]", "[0,8]")],
  ["an exponent", "integer", /a dimension of/, () => entry('"F32"', "[2e0]", "[0,8]")],
  ["a dimension of 2^53", "integer", /a dimension of/, () => entry('"F32"', "[9007199254740992]", "[0,8]")],
  ["a dimension of 2^64 + 2", "integer", /a dimension of/, () => entry('"F32"', "[18446744073709551618]", "[0,8]")],
  ["a dimension as text", "integer", /a dimension of/, () => entry('"F32"', '["2"]', "[0,8]")],
  ["null for a dimension", "integer", /a dimension of/, () => entry('"F32"', "[null]", "[0,8]")],
  ["one offset", "offsets", /not a pair/, () => entry('"F32"', "[2]", "[8]")],
  ["three offsets", "offsets", /not a pair/, () => entry('"F32"', "[2]", "[0,4,8]")],
  ["offsets that are an object", "offsets", /not a pair/, () => entry('"F32"', "[2]", '{"0":0,"1":8}')],
  ["a negative offset", "integer", /an offset of/, () => entry('"F32"', "[2]", "[-8,0]")],
  ["an offset of 2^53", "integer", /an offset of/, () => entry('"F32"', "[2]", "[9007199254740992,9007199254741000]")],
  ["an end before its beginning", "offsets-reversed", /ends before it begins/, () => entry('"F32"', "[2]", "[8,0]")],
  ["elements beyond 2^53", "overflow", /counted exactly/, () => entry('"U8"', "[4294967296,4294967296]", "[0,8]")],
  [
    "elements that wrap to 2 in 64 bits",
    "overflow",
    /counted exactly/,
    () => entry('"F32"', "[9007199254740991,2048,3]", "[0,8]"),
  ],
  ["an overflow hidden by a zero", "overflow", /counted exactly/, () => entry('"F32"', "[9007199254740991,2048,0]", "[0,0]", 0)],
  ["bits beyond 2^53", "overflow", /counted exactly/, () => entry('"F64"', "[1125899906842624]", "[0,8]")],
  ["half a byte", "misaligned", /fill its last byte/, () => entry('"F4"', "[3]", "[0,2]", 2)],
  ["a length too short for the shape", "length", /does not fit/, () => entry('"F32"', "[3]", "[0,8]")],
  ["a length too long for the dtype", "length", /does not fit/, () => entry('"F16"', "[2]", "[0,8]")],
  ["bytes for an empty tensor", "length", /does not fit/, () => entry('"F32"', "[0]", "[0,8]")],
  ["no bytes for a scalar", "length", /does not fit/, () => entry('"F32"', "[]", "[0,0]", 0)],
  ["two tensors in one place", "overlap", /"t1" overlaps/, () => placed(8, [0, 8], [0, 8])],
  ["tensors that share a byte", "overlap", /"t1" overlaps/, () => placed(8, [0, 5], [4, 8])],
  ["an empty tensor inside another", "overlap", /"t0" overlaps/, () => placed(8, [4, 4], [0, 8])],
  ["a hole before the first tensor", "hole", /before tensor "t0"/, () => placed(8, [1, 8])],
  ["a hole between two tensors", "hole", /before tensor "t0"/, () => placed(8, [5, 8], [0, 4])],
  ["bytes after the last tensor", "trailing-bytes", /follow the last tensor/, () => placed(9, [0, 8])],
  ["a payload that nothing describes", "trailing-bytes", /follow the last tensor/, () => file("{}", 1)],
  ["a payload one byte short", "missing-bytes", /ends before its tensors/, () => placed(7, [0, 8])],
  ["no payload", "missing-bytes", /ends before its tensors/, () => placed(0, [0, 8])],
  ["a tensor far past the end", "missing-bytes", /ends before its tensors/, () => placed(8, [0, 2 ** 49])],
];

/** What is wrong with the index, the code it is refused with, the index, further files. */
const INDEXES: [title: string, code: string, index: string, files?: Record<string, Uint8Array>][] = [
  ["invalid UTF-8", "text/utf8", "\xff"],
  ["a list", "index/not-object", "[]"],
  ["no text at all", "index/json-syntax", ""],
  ["no weight_map", "index/no-weight-map", '{"metadata":{}}'],
  ["a weight_map that is a list", "index/no-weight-map", '{"weight_map":[]}'],
  ["an empty weight_map", "index/empty", '{"weight_map":{}}'],
  ["a tensor twice", "index/duplicate-key", '{"weight_map":{"a":"s.safetensors","a":"t.safetensors"}}'],
  ["weight_map twice", "index/duplicate-key", '{"weight_map":{"a":"s.safetensors"},"weight_map":{}}'],
  ["a number for a shard", "index/shard-name", '{"weight_map":{"a":1}}'],
  ["a shard that is no safetensors file", "index/shard-name", '{"weight_map":{"a":"pytorch_model.bin"}}'],
  ["a zero byte in a shard", "index/shard-name", '{"weight_map":{"a":"s\\u0000.safetensors"}}'],
  ["a shard above the folder", "index/shard-outside", '{"weight_map":{"a":"../s.safetensors"}}'],
  ["the folder above for a shard", "index/shard-outside", '{"weight_map":{"a":".."}}'],
  ["an absolute path", "index/shard-outside", '{"weight_map":{"a":"/etc/s.safetensors"}}'],
  ["a path with backslashes", "index/shard-outside", '{"weight_map":{"a":"..\\\\s.safetensors"}}'],
  ["a path with a drive", "index/shard-outside", '{"weight_map":{"a":"C:s.safetensors"}}'],
  ["a shard in a folder below", "index/shard-outside", '{"weight_map":{"a":"sub/s.safetensors"}}'],
  [
    "too many shards",
    "index/too-many-shards",
    `{"weight_map":{${Array.from({ length: MAX_SHARDS + 1 }, (_, i) => `"${i}":"${i}.safetensors"`).join(",")}}}`,
  ],
  ["a missing shard", "checkpoint/missing-shard", '{"weight_map":{"a":"s.safetensors","b":"none.safetensors"}}'],
  ["a tensor that its shard lacks", "index/tensor-missing", '{"weight_map":{"a":"s.safetensors","b":"s.safetensors"}}'],
  ["a shard that is damaged", "safetensors/overlap", '{"weight_map":{"t0":"bad.safetensors"}}'],
  [
    "an unlisted tensor in two shards",
    "index/ambiguous-tensor",
    '{"weight_map":{"b":"x.safetensors","c":"y.safetensors"}}',
    {
      "x.safetensors": file(
        '{"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
      ),
      "y.safetensors": file(
        '{"c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
      ),
    },
  ],
];

describe("malformed safetensors files", () => {
  it("are many, and differ", () => {
    assert.ok(FILES.length >= 40);
    assert.equal(new Set(FILES.map(([title]) => title)).size, FILES.length);
    assert.equal(new Set(FILES.map(([, , , bytes]) => Buffer.from(bytes()).toString("latin1"))).size, FILES.length);
  });

  for (const [title, reason, message, bytes] of FILES) {
    it(`${title}: ${reason}`, async () => {
      const content = bytes();
      const files = memoryFiles({ "m.safetensors": content });
      await refused(readHeader(files, "m.safetensors"), `safetensors/${reason}`, { message, subject: "m.safetensors" });
      const claimed = content.length < 8 ? 0 : Number(Buffer.from(content).readBigUInt64LE(0));
      for (const { offset, length } of files.reads) assert.ok(offset + length <= 8 + claimed, "the payload was read");
    });
  }

  it("a good file of the same make is accepted, its payload unread", async () => {
    for (const good of [
      file(`{${GOOD}}`),
      file(`{"__metadata__":{"k":"v"},${GOOD}}   `),
      file("{}", 0),
      placed(8, [4, 8], [0, 4], [4, 4]),
    ]) {
      const files = memoryFiles({ f: good });
      await readHeader(files, "f");
      assert.deepEqual(
        files.reads.map(({ length }) => length),
        [8, Number(Buffer.from(good).readBigUInt64LE(0))],
      );
    }
  });
});

describe("malformed indexes", () => {
  for (const [title, code, index, more] of INDEXES) {
    it(`${title}: ${code}`, async () => {
      const contents: Record<string, Uint8Array | string> = { "config.json": "{}", "s.safetensors": file(`{${GOOD}}`), ...more };
      contents["bad.safetensors"] = placed(8, [0, 8], [0, 8]);
      contents["model.safetensors.index.json"] = index === "\xff" ? Uint8Array.of(0xff) : index;
      const files = memoryFiles(Object.fromEntries(Object.entries(contents).map(([name, value]) => [`base/${name}`, value])));
      await refused(openCheckpoint(files, "base"), code, { subject: /^base/ });
      for (const { path, offset, length } of files.reads) {
        assert.ok(path.startsWith("base/"), `${path} lies outside the folder`);
        if (!path.endsWith(".safetensors")) continue;
        const claimed = Number(Buffer.from(files.contents.get(path)!).readBigUInt64LE(0));
        assert.ok(offset + length <= 8 + claimed, "a payload was read");
      }
    });
  }
});
