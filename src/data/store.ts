// Tokenized examples in little memory: an index of numbers, and tokens in chunks that go to a file when they become many.
import type { Files } from "../files.ts";
import { type Example, IGNORE } from "./types.ts";

/** Tokens beyond this go to a file, where one is given. A token takes two bytes, or four in a vocabulary of more than 65,536. */
export const STORE_MEMORY_BYTES = 256 << 20;
const CHUNK_BYTES = 4 << 20;
/** Examples read at once when all are gone through. */
const READ_AT_ONCE = 1024;

/** Examples that may lie in a file. */
export interface Examples {
  readonly length: number;
  /** How many tokens an example has, and how many of them behind the first are targets. */
  tokensOf(index: number): number;
  targetsOf(index: number): number;
  /** How many texts it has, one after another, and how many tokens the longest. */
  textsOf(index: number): number;
  longestOf(index: number): number;
  /** How many images it has, each tile of split ones counted. */
  imagesOf(index: number): number;
  /** The examples of these numbers, in their order. */
  read(indices: readonly number[]): Promise<Example[]>;
}

/** Examples that are in memory as they are. */
export const inMemory = (examples: readonly Example[]): Examples => ({
  length: examples.length,
  tokensOf: (index) => examples[index]!.ids.length,
  targetsOf: (index) => targetsIn(examples[index]!),
  textsOf: (index) => textsIn(examples[index]!).length,
  longestOf: (index) => longestIn(examples[index]!),
  imagesOf: (index) => examples[index]!.images?.length ?? 0,
  read: async (indices) => indices.map((index) => examples[index]!),
});

/** Some of `examples`, by their numbers there. */
export const subset = (examples: Examples, indices: ArrayLike<number>): Examples => ({
  length: indices.length,
  tokensOf: (index) => examples.tokensOf(indices[index]!),
  targetsOf: (index) => examples.targetsOf(indices[index]!),
  textsOf: (index) => examples.textsOf(indices[index]!),
  longestOf: (index) => examples.longestOf(indices[index]!),
  imagesOf: (index) => examples.imagesOf(indices[index]!),
  read: (wanted) => examples.read(wanted.map((index) => indices[index]!)),
});

/** All examples in order. */
export async function* inOrder(examples: Examples): AsyncGenerator<Example> {
  for (let start = 0; start < examples.length; start += READ_AT_ONCE) {
    const count = Math.min(READ_AT_ONCE, examples.length - start);
    yield* await examples.read(Array.from({ length: count }, (_, i) => start + i));
  }
}

/** What an example counts as: the targets behind its first token, which is never predicted, unless it says otherwise. */
export function targetsIn({ labels, targets }: Example): number {
  if (targets !== undefined) return targets;
  let count = 0;
  for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE) count++;
  return count;
}

/** The tokens of each text of an example. */
export const textsIn = ({ ids, starts = [] }: Pick<Example, "ids" | "starts">): Int32Array[] =>
  [0, ...starts].map((start, i) => ids.subarray(start, starts[i] ?? ids.length));

const longestIn = (example: Example): number => textsIn(example).reduce((most, { length }) => Math.max(most, length), 0);

export interface StoreOptions {
  /** Ids, positions, and numbers of classes and images are below this. */
  limit: number;
  /** How many tiles the image of a number has; 1 if absent. */
  tilesOf?: (image: number) => number;
  /** Where tokens beyond `memoryBytes` go; they stay in memory if absent. The file is removed by `close`. */
  spill?: { files: Files; path: string; memoryBytes?: number };
}

/** A growing list of examples. */
export interface ExampleStore extends Examples {
  /** Adds an example. Each of its labels is IGNORE or the id at its place. */
  add(example: Example): Promise<void>;
  /** Bytes that are in the file. */
  readonly spilled: number;
  close(): Promise<void>;
}

type Words = Uint16Array | Int32Array;

/** An entry is: the number of its lists (`listsOf`); these, each behind its length; the ids. */
export function exampleStore({ limit, spill, tilesOf = () => 1 }: StoreOptions): ExampleStore {
  const makeWords = (size: number): Words => (limit <= 1 << 16 ? new Uint16Array(size) : new Int32Array(size));
  const wordBytes = makeWords(0).BYTES_PER_ELEMENT;
  const chunkWords = CHUNK_BYTES / wordBytes;
  const memoryChunks = Math.max(1, Math.floor((spill?.memoryBytes ?? STORE_MEMORY_BYTES) / CHUNK_BYTES));
  /** Chunks from `inFile` on; those before are in the file. */
  let chunks: Words[] = [];
  let inFile = 0;
  let end = 0;
  const starts = growing(Float64Array);
  const tokens = growing(Int32Array);
  const targets = growing(Int32Array);
  const texts = growing(Int32Array);
  const longest = growing(Int32Array);
  const images = growing(Int32Array);

  async function append(words: Words): Promise<void> {
    for (let done = 0; done < words.length; ) {
      const [chunk, at] = [Math.floor(end / chunkWords), end % chunkWords];
      if (chunk - inFile === chunks.length) {
        if (spill && (inFile > 0 || chunks.length >= memoryChunks)) await spillChunks(spill);
        chunks.push(makeWords(chunkWords));
      }
      const part = words.subarray(done, done + chunkWords - at);
      chunks[chunk - inFile]!.set(part, at);
      done += part.length;
      end += part.length;
    }
  }

  async function spillChunks({ files, path }: NonNullable<StoreOptions["spill"]>): Promise<void> {
    for (const chunk of chunks) await files.append(path, new Uint8Array(chunk.buffer));
    inFile += chunks.length;
    chunks = [];
  }

  /** The words from `start` to `stop`. */
  async function wordsAt(start: number, stop: number): Promise<Words> {
    const words = makeWords(stop - start);
    const border = Math.min(stop, inFile * chunkWords);
    if (start < border) {
      const bytes = await spill!.files.read(spill!.path, start * wordBytes, (border - start) * wordBytes);
      new Uint8Array(words.buffer).set(bytes);
    }
    for (let at = Math.max(start, border); at < stop; ) {
      const [chunk, from] = [Math.floor(at / chunkWords), at % chunkWords];
      const part = chunks[chunk - inFile]!.subarray(from, Math.min(chunkWords, from + stop - at));
      words.set(part, at - start);
      at += part.length;
    }
    return words;
  }

  const endOf = (index: number): number => (index + 1 < starts.length ? starts.at(index + 1) : end);

  return {
    get length() {
      return starts.length;
    },
    get spilled() {
      return inFile * CHUNK_BYTES;
    },
    tokensOf: tokens.at,
    targetsOf: targets.at,
    textsOf: texts.at,
    longestOf: longest.at,
    imagesOf: images.at,
    async add(example) {
      const lists = listsOf(example);
      const head = [lists.length, ...lists.flatMap((list) => [list.length, ...list])];
      const words = makeWords(head.length + example.ids.length);
      words.set(head);
      words.set(example.ids, head.length);
      starts.push(end);
      tokens.push(example.ids.length);
      targets.push(targetsIn(example));
      texts.push(1 + (example.starts?.length ?? 0));
      longest.push(longestIn(example));
      images.push((example.images ?? []).reduce((sum, image) => sum + tilesOf(image), 0));
      await append(words);
    },
    async read(indices) {
      const found = new Map<number, Example>();
      const sorted = [...indices].sort((a, b) => a - b);
      for (let i = 0; i < sorted.length; ) {
        // Examples that lie one behind the other are read together.
        let last = i;
        while (last + 1 < sorted.length && sorted[last + 1]! - sorted[last]! <= 1) last++;
        const start = starts.at(sorted[i]!);
        const words = await wordsAt(start, endOf(sorted[last]!));
        for (; i <= last; i++) {
          const index = sorted[i]!;
          found.set(index, exampleIn(words, starts.at(index) - start, tokens.at(index), targets.at(index)));
        }
      }
      return indices.map((index) => found.get(index)!);
    },
    async close() {
      if (spill && inFile > 0) await spill.files.remove(spill.path);
    },
  };
}

/** The numbers beside the ids: where runs of targets begin, and end; starts; classes (plus one); images; the bits of the value. */
function listsOf({ labels, starts = [], classes = [], value, images = [] }: Example): (readonly number[])[] {
  const runs: [number[], number[]] = [[], []];
  for (let i = 0, inside = 0; i <= labels.length; i++) {
    const isTarget = i < labels.length && labels[i] !== IGNORE ? 1 : 0;
    if (isTarget !== inside) runs[inside]!.push(i);
    inside = isTarget;
  }
  const bits = value === undefined ? [] : [...new Int32Array(Float32Array.of(value).buffer)];
  const lists = [...runs, starts, classes.map((number) => number + 1), images, bits];
  return lists.slice(0, 1 + lists.findLastIndex(({ length }) => length > 0));
}

function exampleIn(words: Words, at: number, length: number, targets: number): Example {
  let next = at + 1;
  const lists = Array.from({ length: words[at]! }, () => {
    const count = words[next]!;
    next += count + 1;
    return [...words.subarray(next - count, next)];
  });
  const [begins = [], ends = [], starts = [], classes = [], images = [], bits = []] = lists;
  const ids = Int32Array.from(words.subarray(next, next + length));
  const labels = new Int32Array(length).fill(IGNORE);
  for (const [run, from] of begins.entries()) labels.set(ids.subarray(from, ends[run]), from);
  const example = { ids, labels };
  return {
    ...example,
    ...(targets !== targetsIn(example) && { targets }),
    ...(starts.length > 0 && { starts }),
    ...(classes.length > 0 && { classes: classes.map((number) => number - 1) }),
    ...(bits.length > 0 && { value: new Float32Array(Int32Array.from(bits).buffer)[0]! }),
    ...(images.length > 0 && { images }),
  };
}

/** A list of numbers in a typed array that doubles when it is full. */
export function growing<T extends Float64Array | Int32Array | Uint8Array>(make: new (size: number) => T) {
  let numbers = new make(1024);
  let length = 0;
  return {
    get length() {
      return length;
    },
    at: (index: number): number => numbers[index]!,
    push(value: number): void {
      if (length === numbers.length) {
        const larger = new make(2 * length);
        larger.set(numbers);
        numbers = larger;
      }
      numbers[length++] = value;
    },
  };
}
