// Files in memory that record every read, so that a test can check what was read of each.
import { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";
import { fingerprint } from "../../src/formats/fingerprint.ts";

export interface MemoryFiles extends Files {
  contents: Map<string, Uint8Array>;
  reads: { path: string; offset: number; length: number }[];
}

export function memoryFiles(contents: Record<string, Uint8Array | string> = {}): MemoryFiles {
  const encode = (value: Uint8Array | string) => (typeof value === "string" ? new TextEncoder().encode(value) : value);
  const held = new Map(Object.entries(contents).map(([path, value]) => [path, encode(value)]));
  const reads: MemoryFiles["reads"] = [];
  const get = (path: string) => held.get(path) ?? fail(path, "file/missing");
  const fail = (subject: string, code: string): never => {
    throw new LowrankError(code, "memory files", { subject });
  };
  return {
    contents: held,
    reads,
    size: async (path) => get(path).length,
    stamp: async (path) => `${get(path).length} ${fingerprint([get(path)])}`,
    exists: async (path) => held.has(path),
    read: async (path, offset, length) => {
      reads.push({ path, offset, length });
      const bytes = get(path);
      return offset + length <= bytes.length ? bytes.slice(offset, offset + length) : fail(path, "file/past-end");
    },
    realPath: async (path) => path,
    list: async (folder) => {
      const inside = [...held.keys()].filter((path) => path.startsWith(`${folder}/`));
      return [...new Set(inside.map((path) => path.slice(folder.length + 1).split("/")[0]!))].sort();
    },
    isFolder: async (folder) => [...held.keys()].some((path) => path.startsWith(`${folder}/`)),
    write: async (path, chunks) => {
      const parts: Uint8Array[] = [];
      if (chunks instanceof Uint8Array) parts.push(chunks);
      else for await (const chunk of chunks) parts.push(chunk.slice());
      held.set(path, new Uint8Array(Buffer.concat(parts)));
    },
    append: async (path, bytes) =>
      void held.set(path, new Uint8Array(Buffer.concat([held.get(path) ?? new Uint8Array(), bytes]))),
    makeFolder: async () => {},
    rename: async (from, to) => {
      for (const [path, bytes] of [...held]) {
        if (path !== from && !path.startsWith(`${from}/`)) continue;
        held.delete(path);
        held.set(to + path.slice(from.length), bytes);
      }
    },
    remove: async (path) => {
      for (const other of [...held.keys()]) if (other === path || other.startsWith(`${path}/`)) held.delete(other);
    },
  };
}
