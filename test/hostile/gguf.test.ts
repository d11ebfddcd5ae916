// Damaged and malicious GGUF headers: each is refused with one error, before anything large is read or allocated.
import { it } from "node:test";
import { openGguf } from "../../src/formats/gguf/checkpoint.ts";
import { MAX_ARRAY, MAX_KEYS, MAX_STRING_BYTES, MAX_TENSORS, readGguf } from "../../src/formats/gguf/reader.ts";
import { refused } from "../helpers/assert.ts";
import { type GgufParts, ggufFile, zeros } from "../helpers/gguf.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const good: GgufParts = {
  metadata: [
    ["general.architecture", ["string", "llama"]],
    ["tokens", ["strings", ["a", "b"]]],
  ],
  tensors: [zeros("a.weight", 32, 2), zeros("b.weight", 8)],
};
const [a, b] = good.tensors as [ReturnType<typeof zeros>, ReturnType<typeof zeros>];

const read = (bytes: Uint8Array) => readGguf(memoryFiles({ "m.gguf": bytes }), "m.gguf");
/** The good file with bytes changed. */
const patched = (at: number, ...bytes: number[]): Uint8Array => {
  const file = ggufFile(good);
  file.set(bytes, at);
  return file;
};
/** The good file with the 64-bit number in front of a text changed. */
const lengthOf = (text: string, length: bigint): Uint8Array => {
  const file = Buffer.from(ggufFile(good));
  file.writeBigUInt64LE(length, file.indexOf(text) - 8);
  return new Uint8Array(file);
};

const HOSTILE: [what: string, code: string, file: Uint8Array][] = [
  ["an empty file", "truncated", new Uint8Array()],
  ["another format", "magic", patched(0, 0x50, 0x4b)],
  ["version 1", "version", ggufFile({ ...good, version: 1 })],
  ["a big-endian file", "version", ggufFile({ ...good, version: 0x03000000 })],
  ["too many tensors", "too-many-tensors", ggufFile({ ...good, tensorCount: BigInt(MAX_TENSORS) + 1n })],
  ["2^64 - 1 keys", "too-many-keys", ggufFile({ ...good, keyCount: 2n ** 64n - 1n })],
  ["more keys than there are", "string-length", ggufFile({ ...good, keyCount: 3n })],
  ["many keys of nothing", "string-length", ggufFile({ keyCount: BigInt(MAX_KEYS), tensors: [zeros("a", 32, 512)] })],
  ["a text of a terabyte", "string-length", lengthOf("llama", 1n << 40n)],
  ["a text longer than the file", "truncated", lengthOf("llama", BigInt(MAX_STRING_BYTES))],
  [
    "a list that is too long",
    "array-length",
    (() => {
      const file = Buffer.from(ggufFile(good));
      file.writeBigUInt64LE(BigInt(MAX_ARRAY) + 1n, file.indexOf("tokens") + 6 + 8);
      return new Uint8Array(file);
    })(),
  ],
  ["a text that is no UTF-8", "utf8", patched(Buffer.from(ggufFile(good)).indexOf("llama"), 0xff)],
  ["a key that comes twice", "duplicate-key", ggufFile({ metadata: [good.metadata![0]!, good.metadata![0]!] })],
  ["an alignment of 3", "alignment", ggufFile({ metadata: [["general.alignment", ["uint32", 3]]] })],
  ["an alignment of 2^30", "alignment", ggufFile({ metadata: [["general.alignment", ["uint32", 2 ** 30]]] })],
  ["a tensor without dimensions", "rank", ggufFile({ tensors: [{ ...a, dims: [] }] })],
  ["a tensor of five dimensions", "rank", ggufFile({ tensors: [{ ...a, dims: [1, 1, 1, 1, 64] }] })],
  ["a tensor without elements", "empty", ggufFile({ tensors: [{ ...a, dims: [32, 0] }] })],
  ["a dimension of 2^63", "overflow", ggufFile({ tensors: [{ ...a, dims: [2n ** 63n] }] })],
  ["dimensions whose product overflows", "overflow", ggufFile({ tensors: [{ ...a, dims: [2n ** 40n, 2n ** 40n] }] })],
  ["a type that is not read", "type", ggufFile({ tensors: [{ ...a, type: 23 }] })],
  ["a type that does not exist", "type", ggufFile({ tensors: [{ ...a, type: 9999 }] })],
  ["rows of half a block", "row-length", ggufFile({ tensors: [{ ...a, dims: [16, 4], type: 8 }] })],
  ["an offset that is not aligned", "misaligned", ggufFile({ tensors: [a, { ...b, offset: 264 }] })],
  ["tensors that overlap", "overlap", ggufFile({ tensors: [a, { ...b, offset: 0 }] })],
  ["a tensor behind the end", "missing-bytes", ggufFile({ tensors: [a, { ...b, offset: 2 ** 40 }] })],
  ["a file that was cut short", "missing-bytes", ggufFile(good).slice(0, -40)],
  ["a header that was cut short", "truncated", ggufFile(good).slice(0, 100)],
  ["two tensors of one name", "duplicate-tensor", ggufFile({ tensors: [a, { ...b, name: a.name }] })],
  ["a long name", "string-length", ggufFile({ tensors: [{ ...a, name: "a".repeat(65) }] })],
];

for (const [what, code, file] of HOSTILE)
  it(what, async () => void (await refused(read(file), `gguf/${code}`, { subject: /^m\.gguf/ })));

const vocabulary = (tokens: string[]): NonNullable<GgufParts["metadata"]> => [
  ["tokenizer.ggml.model", ["string", "llama"]],
  ["tokenizer.ggml.tokens", ["strings", tokens]],
  ["tokenizer.ggml.scores", ["float32s", tokens.map(() => 0)]],
];
const model = (tensors: GgufParts["tensors"], tokens: string[] = []) =>
  ggufFile({
    metadata: [["general.architecture", ["string", "llama"]], ...(tokens.length > 0 ? vocabulary(tokens) : [])],
    tensors,
  });
const opened = (bytes: Uint8Array) => openGguf(memoryFiles({ "m.gguf": bytes }), "m.gguf");

it("a file without weights", async () => void (await refused(opened(model([])), "gguf/empty", { subject: /^m\.gguf/ })));
it("rotary factors for a hundred thousand pairs", async () => {
  await refused(opened(model([zeros("rope_freqs.weight", 100_000)])), "gguf/rope", { got: /100000/ });
});
it("tokens that take for ever to cut", async () => {
  const long = Array.from({ length: 200 }, (_, i) => `${i}`.padEnd(4000, "a"));
  await refused(opened(model([a], long)), "gguf/tokenizer", { got: /characters/ });
});

it("the good file is read", async () => void (await read(ggufFile(good))));
