// The Files interface in a browser: a tree of blobs in memory. What is mounted is fetched when it is first read.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";

/** A file's content, or the address it is fetched from. */
export type Mounted = Blob | Uint8Array<ArrayBuffer> | URL;

const parentOf = (path: string): string => path.slice(0, Math.max(path.lastIndexOf("/"), 0));
/** Without empty parts and "." at the beginning: "./a//b/" is "a/b". */
const normal = (path: string): string =>
  path
    .split("/")
    .filter((part, i) => part !== "." && (part !== "" || i === 0))
    .join("/");

/** Files in memory. `mounted` are those that are there from the start, by path. */
export function webFiles(mounted: Readonly<Record<string, Mounted>> = {}): Files {
  const held = new Map<string, Blob | URL>();
  const folders = new Set<string>([""]);

  const addFolder = (folder: string): void => {
    for (let at = folder; !folders.has(at); at = parentOf(at)) folders.add(at);
  };
  const add = (path: string, content: Blob | URL): void => {
    addFolder(parentOf(path));
    held.set(path, content);
  };
  const inside = (folder: string): string[] => [...held.keys(), ...folders].filter((path) => path.startsWith(`${folder}/`));

  async function blobOf(path: string): Promise<Blob> {
    const content = held.get(path);
    if (content === undefined) throw folders.has(path) ? fail("file/not-regular", path) : fail("file/missing", path);
    if (content instanceof Blob) return content;
    const response = await fetch(content).catch((cause) => Promise.reject(unreachable(path, content, String(cause))));
    if (!response.ok) throw unreachable(path, content, `${response.status} ${response.statusText}`);
    const blob = await response.blob();
    if (held.get(path) === content) held.set(path, blob);
    return blob;
  }

  for (const [path, content] of Object.entries(mounted)) {
    add(normal(path), content instanceof Uint8Array ? new Blob([content]) : content);
  }

  return {
    size: async (path) => (await blobOf(normal(path))).size,
    stamp: async (path) => String((await blobOf(normal(path))).size),
    exists: async (path) => held.has(normal(path)) || folders.has(normal(path)),
    async read(path, offset, length, into) {
      const blob = await blobOf(normal(path));
      if (!(offset >= 0 && length >= 0 && offset + length <= blob.size)) throw fail("file/past-end", path);
      const bytes = new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
      into?.set(bytes);
      return into ?? bytes;
    },
    realPath: async (path) => normal(path),
    async list(folder) {
      const at = normal(folder);
      if (!folders.has(at)) throw fail(held.has(at) ? "file/not-folder" : "file/missing", folder);
      const from = at === "" ? 0 : at.length + 1;
      const names = [...held.keys(), ...folders].filter((path) => path !== "" && parentOf(path) === at);
      return names.map((path) => path.slice(from)).sort();
    },
    isFolder: async (path) => folders.has(normal(path)),
    async write(path, chunks) {
      const parts: Blob[] = [];
      if (chunks instanceof Uint8Array) parts.push(blobFrom(chunks));
      else for await (const chunk of chunks) parts.push(blobFrom(chunk));
      const at = normal(path);
      if (!folders.has(parentOf(at))) throw fail("file/missing", path);
      if (folders.has(at)) throw fail("file/not-regular", path);
      held.set(at, new Blob(parts));
    },
    async append(path, bytes) {
      const at = normal(path);
      const before = held.has(at) ? [await blobOf(at)] : [];
      if (!folders.has(parentOf(at))) throw fail("file/missing", path);
      held.set(at, new Blob([...before, blobFrom(bytes)]));
    },
    async makeFolder(folder, mustBeNew) {
      if (mustBeNew && folders.has(normal(folder))) throw fail("file/exists", folder);
      addFolder(normal(folder));
    },
    async rename(from, to) {
      const [source, target] = [normal(from), normal(to)];
      const isFolder = folders.has(source);
      if (!isFolder && !held.has(source)) throw fail("file/missing", from);
      if (isFolder && (held.has(target) || inside(target).length > 0)) throw fail("file/not-empty", to);
      for (const path of [source, ...inside(source)]) {
        const moved = target + path.slice(source.length);
        if (folders.delete(path)) addFolder(moved);
        const content = held.get(path);
        if (content !== undefined && held.delete(path)) add(moved, content);
      }
    },
    async remove(path) {
      const at = normal(path);
      for (const one of [at, ...inside(at)]) {
        held.delete(one);
        folders.delete(one);
      }
    },
  };
}

/** A copy: who writes a chunk may use its memory again. */
const blobFrom = (bytes: Uint8Array): Blob => new Blob([bytes.slice()]);

const REASONS: Record<string, [message: string, next: string]> = {
  "file/missing": ["no such file or folder", "Check the path."],
  "file/not-folder": ["part of the path is not a folder", "Check the path."],
  "file/not-regular": ["is a folder, not a file", "Give the path of a file."],
  "file/not-empty": ["the folder is not empty", "Choose another folder, or empty this one."],
  "file/exists": ["exists already", "Choose another name, or remove it."],
  "file/past-end": ["a read past the end of the file", "The file is shorter than its header or index states; fetch it again."],
};

function fail(code: string, subject: string): LowrankError {
  const [message, next] = REASONS[code]!;
  return new LowrankError(code, message, { subject, next });
}

const unreachable = (subject: string, address: URL, got: string): LowrankError =>
  new LowrankError("file/fetch", "the file cannot be fetched", {
    subject,
    expected: `a file at ${address.href}`,
    got,
    next: "Check the address, and that its server allows this page to read it (CORS).",
    exitCode: 1,
  });
