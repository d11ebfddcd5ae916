// Mutations of a file: of its bytes, of the numbers in it, of its text, and of the tree where it is JSON.
import type { Draw } from "./draw.ts";

/** No mutated file is larger. */
const MAX_BYTES = 1 << 18;

type Mutator = (bytes: Uint8Array, draw: Draw) => Uint8Array;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

const concat = (...parts: Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

/** A range of `bytes`, short more often than long. */
function range(bytes: Uint8Array, draw: Draw): [start: number, end: number] {
  const start = draw.below(bytes.length + 1);
  return [start, Math.min(bytes.length, start + Math.ceil((bytes.length - start) * draw.next() ** 4))];
}

const LENGTHS = [
  0n,
  1n,
  7n,
  8n,
  255n,
  65_536n,
  100_000_001n,
  1n << 31n,
  1n << 32n,
  (1n << 53n) - 1n,
  1n << 63n,
  (1n << 64n) - 1n,
];
const NUMBERS = [
  "0",
  "-1",
  "1",
  "2",
  "7",
  "255",
  "65536",
  "2147483648",
  "4294967296",
  "9007199254740991",
  "1e308",
  "-0",
  "0.5",
  "1e999",
  "18446744073709551616",
];
/** What readers of text stumble over. Lone surrogates are written as escapes, which JSON lets through. */
const TEXTS = [
  "\uFEFF",
  "\0",
  "\r\n",
  "\r",
  "\u2028",
  "\u0085",
  "\u202E",
  "e\u0301",
  "\u200B",
  "𝔘",
  "👩‍👩‍👧",
  "\uFDD0",
  "\uFFFD",
  "\\ud800",
  '"',
  "\\",
  ",",
  "{",
  "[",
  "]",
  "}",
  ":",
  "'",
  "<|im_end|>",
  "{{",
  "{%",
  "%}",
  "__proto__",
  "constructor",
  "(a+)+$",
  "(?<=a)",
  "$&",
  "../",
  "\t",
  " ".repeat(1500),
  "[".repeat(20_000),
  '{"a":'.repeat(20_000),
];

const byteMutators: Mutator[] = [
  function flipBits(bytes, draw) {
    const out = bytes.slice();
    for (let n = 1 + draw.below(8); n > 0 && out.length > 0; n--) out[draw.below(out.length)]! ^= 1 << draw.below(8);
    return out;
  },
  function truncate(bytes, draw) {
    return bytes.slice(0, draw.below(bytes.length + 1));
  },
  function removeChunk(bytes, draw) {
    const [start, end] = range(bytes, draw);
    return concat(bytes.subarray(0, start), bytes.subarray(end));
  },
  function repeatChunk(bytes, draw) {
    const [start, end] = range(bytes, draw);
    const times = draw.pick([1, 1, 2, 40]);
    return concat(
      bytes.subarray(0, end),
      ...Array.from({ length: times }, () => bytes.subarray(start, end)),
      bytes.subarray(end),
    );
  },
  function splice(bytes, draw) {
    const [start, end] = range(bytes, draw);
    const to = draw.below(bytes.length + 1);
    return concat(bytes.subarray(0, to), bytes.subarray(start, end), bytes.subarray(to));
  },
  function swapHalves(bytes, draw) {
    const at = draw.below(bytes.length + 1);
    return concat(bytes.subarray(at), bytes.subarray(0, at));
  },
  function writeLength(bytes, draw) {
    const out = bytes.slice();
    if (out.length < 8) return out;
    // The length field of safetensors is in front; others can be anywhere.
    const at = draw.next() < 0.5 ? 0 : draw.below(out.length - 7);
    const view = new DataView(out.buffer);
    const base = draw.next() < 0.5 ? view.getBigUint64(at, true) : 0n;
    view.setBigUint64(at, BigInt.asUintN(64, base + draw.pick(LENGTHS) * draw.pick([1n, -1n])), true);
    return out;
  },
  function changeNumber(bytes, draw) {
    const text = Buffer.from(bytes).toString("latin1");
    const found = [...text.matchAll(/\d+(?:\.\d+)?/g)];
    if (found.length === 0) return bytes;
    const { index, 0: old } = draw.pick(found);
    const change = draw.pick([...NUMBERS, String(Number(old) + 1), String(Number(old) - 1), `${old}0`, `-${old}`]);
    return concat(bytes.subarray(0, index), encoder.encode(change), bytes.subarray(index! + old.length));
  },
  function insertText(bytes, draw) {
    const at = draw.below(bytes.length + 1);
    return concat(bytes.subarray(0, at), encoder.encode(draw.pick(TEXTS)), bytes.subarray(at));
  },
  function breakUtf8(bytes, draw) {
    const at = draw.below(bytes.length + 1);
    return concat(
      bytes.subarray(0, at),
      Uint8Array.from(draw.pick([[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xf0, 0x9f], [0xc0, 0x80]])),
      bytes.subarray(at),
    );
  },
];

type Container = unknown[] | Record<string, unknown>;
type Place = { parent: Container; key: string | number };

function placesOf(root: unknown): Place[] {
  const places: Place[] = [];
  const waiting: unknown[] = [root];
  while (waiting.length > 0 && places.length < 20_000) {
    const parent = waiting.pop();
    if (typeof parent !== "object" || parent === null) continue;
    for (const key of Array.isArray(parent) ? parent.keys() : Object.keys(parent)) {
      places.push({ parent: parent as Container, key });
      waiting.push((parent as Record<string | number, unknown>)[key]);
    }
  }
  return places;
}

const deep = (depth: number): unknown => {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = i % 2 ? [value] : { a: value };
  return value;
};

function odd(draw: Draw): unknown {
  return draw.pick<() => unknown>([
    () => null,
    () => true,
    () => "",
    () => draw.pick(TEXTS),
    () => Number(draw.pick(NUMBERS)),
    () => [],
    () => ({}),
    () => [null],
    () => [[1, 2], "a", {}],
    () => ({ type: "Sequence" }),
    () => "x".repeat(draw.pick([1, 100, 5000])),
    () => deep(draw.pick([3, 40, 300])),
    () => Array.from({ length: draw.pick([2, 300]) }, (_, i) => i),
  ])();
}

/** Replaces, removes, doubles or moves nodes of a JSON text. Lines of JSON are taken one by one. */
function mutateJson(bytes: Uint8Array, draw: Draw): Uint8Array {
  const text = decoder.decode(bytes);
  const lines = text.trim().split("\n");
  const single = lines.length > 1 && lines.every((line) => line.startsWith("{"));
  const at = single ? draw.below(lines.length) : 0;
  let root: { value: unknown };
  try {
    root = { value: JSON.parse(single ? lines[at]! : text) };
  } catch {
    return bytes;
  }
  for (let n = 1 + draw.below(3); n > 0; n--) {
    const places = placesOf(root);
    if (places.length === 0) break;
    const { parent, key } = draw.pick(places);
    const node = parent as Record<string | number, unknown>;
    const set = (value: unknown, at: string | number = key): void => void Object.assign(node, { [at]: value });
    const other = draw.pick(places);
    draw.pick<() => unknown>([
      () => set(odd(draw)),
      () => set(odd(draw)),
      () => (Array.isArray(parent) ? parent.splice(Number(key), 1) : delete node[key]),
      () => (Array.isArray(parent) ? parent.push(structuredClone(node[key])) : set(structuredClone(node[key]), `${key}2`)),
      () => set(structuredClone((other.parent as Record<string | number, unknown>)[other.key])),
      () => set([node[key]]),
      () => set({ [draw.pick(["type", "a", "__proto__", "Regex", "0"])]: node[key] }),
      () => set(typeof node[key] === "string" ? insert(node[key], draw) : Number(draw.pick(NUMBERS))),
      () => (Array.isArray(parent) ? parent.reverse() : set(odd(draw), draw.pick(TEXTS))),
    ])();
  }
  // A number beyond JSON's, such as 1e999, comes out as null: that is one more mutation.
  const written = JSON.stringify(root.value, null, draw.pick([0, 0, 1])) ?? "";
  return encoder.encode(single ? lines.with(at, written).join("\n") : written);
}

function insert(text: string, draw: Draw): string {
  const at = draw.below(text.length + 1);
  return text.slice(0, at) + draw.pick(TEXTS) + text.slice(at + draw.below(3));
}

/** A file that one to four mutations were done to. Most of them keep JSON JSON, so that what is behind the parser is met. */
export function mutate(bytes: Uint8Array, draw: Draw): Uint8Array {
  let out = bytes;
  for (let n = draw.pick([1, 1, 1, 2, 4]); n > 0; n--) {
    const mutated = draw.next() < 0.5 ? mutateJson(out, draw) : draw.pick(byteMutators)(out, draw);
    // A file that is no JSON is left as it is by mutateJson.
    out = mutated === out ? draw.pick(byteMutators)(out, draw) : mutated;
    if (out.length > MAX_BYTES) out = out.slice(0, MAX_BYTES);
  }
  return out;
}
