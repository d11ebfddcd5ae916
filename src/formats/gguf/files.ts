// A GGUF file seen as the folder of a checkpoint: config.json and the tokenizer's files are made from its metadata when they are read.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { isGguf, openGguf } from "./checkpoint.ts";

/** Headers that are kept; a run has one base. */
const MAX_KEPT = 4;

/** What is made from one GGUF file. */
interface Made {
  stamp: string;
  /** tokenizer.json is large: it is made when it is read, and not kept. */
  bytes: Map<string, Uint8Array | null>;
  vocabulary?: WeakRef<Uint8Array>;
}

/** `files` in which `x.gguf/config.json` and the like exist for every GGUF file; all else is as it is. */
export function withGguf(files: Files): Files {
  const kept = new Map<string, Promise<Made>>();

  async function made(path: string): Promise<Made> {
    const stamp = await files.stamp(path);
    const known = await kept.get(path)?.catch(() => undefined);
    if (known?.stamp === stamp) return known;
    const making = make(files, path, stamp);
    kept.delete(path);
    kept.set(path, making);
    for (const oldest of [...kept.keys()].slice(0, -MAX_KEPT)) kept.delete(oldest);
    return making;
  }
  /** The GGUF file and the name of a path inside it; null for other paths. */
  async function inside(path: string): Promise<{ gguf: string; name: string } | null> {
    const [, gguf, name] = /^(.*\.gguf)\/+([^/]*)$/i.exec(path) ?? [];
    if (gguf === undefined || !(await files.exists(gguf)) || (await files.isFolder(gguf))) return null;
    return { gguf, name: name! };
  }
  async function content(path: string): Promise<Uint8Array | null> {
    const place = await inside(path);
    if (!place) return null;
    const file = await made(place.gguf);
    const known = file.bytes.get(place.name);
    if (known !== null) return known ?? null;
    const vocabulary = file.vocabulary?.deref() ?? jsonOf((await openGguf(files, place.gguf)).tokenizer!.tokenizer());
    file.vocabulary = new WeakRef(vocabulary); // asked for its size, then for its bytes
    return vocabulary;
  }

  return {
    ...files,
    size: async (path) => (await content(path))?.length ?? files.size(path),
    async exists(path) {
      const place = await inside(path);
      if (!place) return files.exists(path);
      return (await made(place.gguf)).bytes.has(place.name);
    },
    async stamp(path) {
      const place = await inside(path);
      return files.stamp(place ? place.gguf : path);
    },
    async read(path, offset, length, into) {
      const bytes = await content(path);
      if (!bytes) return files.read(path, offset, length, into);
      const part = bytes.slice(offset, offset + length);
      if (part.length < length) throw tooShort(path, offset + length, bytes.length);
      into?.set(part);
      return into ?? part;
    },
    async realPath(path) {
      const place = await inside(path);
      return place ? `${await files.realPath(place.gguf)}/${place.name}` : files.realPath(path);
    },
    async list(folder) {
      if (!isGguf(folder) || (await files.isFolder(folder))) return files.list(folder);
      return [...(await made(folder)).bytes.keys()];
    },
    async isFolder(path) {
      return (await inside(path)) ? false : files.isFolder(path);
    },
  };
}

const tooShort = (path: string, end: number, length: number): LowrankError =>
  new LowrankError("file/past-end", "a read past the end of the file", {
    subject: path,
    expected: `at least ${end} bytes`,
    got: `${length} bytes`,
    next: "The file has changed while it was read; run it again.",
  });

const jsonOf = (value: object): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);

async function make(files: Files, path: string, stamp: string): Promise<Made> {
  const { config, tokenizer } = await openGguf(files, path);
  const bytes: Made["bytes"] = new Map([["config.json", jsonOf(config)]]);
  if (!tokenizer) return { stamp, bytes };
  bytes.set("generation_config.json", jsonOf(tokenizer.ids)).set("tokenizer.json", null);
  return { stamp, bytes: bytes.set("tokenizer_config.json", jsonOf(tokenizer.config)) };
}
