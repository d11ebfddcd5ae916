// SHA256SUMS: the checksums of a folder's files, in coreutils' format, so that `sha256sum -c SHA256SUMS` checks them too.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { readText } from "./json.ts";
import { BLOCK_BYTES, readInBlocks } from "./side-files.ts";

/** A hash over bytes that come in parts. */
export interface Digest {
  add(bytes: Uint8Array): void;
  /** In hexadecimal digits. Nothing can be added afterwards. */
  end(): string;
}

/** Begins a hash: SHA-256, or the SHA-1 by which git names files. */
export type MakeDigest = (algorithm?: "sha256" | "sha1") => Digest;

export const SUMS_NAME = "SHA256SUMS";
/** Files that one SHA256SUMS lists. */
export const MAX_SUMS = 100_000;

const LINE = /^(\\?)([\da-fA-F]{64}) [ *](.+)$/;
/** A path that stays below its folder. */
const PATH_BELOW = /^(?!\.{1,2}(?:\/|$))[^/\0]+(?:\/(?!\.{1,2}(?:\/|$))[^/\0]+)*$/;

export interface Summing {
  files: Files;
  /** The SHA-256 of a file that was written. */
  sumOf(path: string): string | undefined;
  writeSums(folder: string): Promise<void>;
}

/**
 * Files whose `write` hashes what it writes, and what writes the hashes of all that lies below a folder, but for hidden files, into its
 * SHA256SUMS. Without `digest` the files are as they are, and no sums are written.
 */
export function summing(files: Files, digest?: MakeDigest): Summing {
  if (!digest) return { files, sumOf: () => undefined, writeSums: async () => {} };
  const sums = new Map<string, string>();
  return {
    files: {
      ...files,
      async write(path, chunks) {
        const hash = digest();
        await files.write(path, hashed(chunks, hash));
        sums.set(path, hash.end());
      },
    },
    sumOf: (path) => sums.get(path),
    async writeSums(folder) {
      const below = [...sums].filter(([path]) => path.startsWith(`${folder}/`));
      const all = below.map(([path, sum]): [string, string] => [path.slice(folder.length + 1), sum]);
      const named = all.filter(([name]) => !name.startsWith("."));
      const lines = named.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, sum]) => lineOf(name, sum));
      await files.write(`${folder}/${SUMS_NAME}`, new TextEncoder().encode(lines.join("")));
    },
  };
}

function lineOf(name: string, sum: string): string {
  const escaped = name.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
  return `${escaped === name ? "" : "\\"}${sum}  ${escaped}\n`;
}

/** The chunks, in blocks, each after it was added to `hash`. */
export async function* hashed(
  chunks: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  hash: Digest,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks instanceof Uint8Array ? [chunks] : chunks) {
    for (let at = 0; at < chunk.length; at += BLOCK_BYTES) {
      const part = chunk.subarray(at, at + BLOCK_BYTES);
      hash.add(part);
      yield part;
    }
  }
}

/** The hash of a file. */
export async function sumFile(files: Files, path: string, digest: MakeDigest): Promise<string> {
  const hash = digest();
  for await (const _ of hashed(readInBlocks(files, path, 0, await files.size(path)), hash));
  return hash.end();
}

/** The sums that a folder's SHA256SUMS lists, by path below the folder; null if it has none. Fails with `checksums/format`. */
export async function readSums(files: Files, folder: string): Promise<Map<string, string> | null> {
  const path = `${folder}/${SUMS_NAME}`;
  if (!(await files.exists(path))) return null;
  const sums = new Map<string, string>();
  const lines = (await readText(files, path)).split("\n");
  for (const [at, line] of lines.entries()) {
    if (line === "" || line.startsWith("#")) continue;
    const [, isEscaped, sum, written] = LINE.exec(line.replace(/\r$/, "")) ?? [];
    const name = isEscaped
      ? written!.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c))
      : (written ?? "").replace(/^(\.\/)+/, "");
    if (PATH_BELOW.test(name) && sums.size < MAX_SUMS) {
      sums.set(name, sum!.toLowerCase());
      continue;
    }
    throw new LowrankError("checksums/format", `line ${at + 1} is no checksum of a file in the folder`, {
      subject: path,
      expected: `64 hexadecimal digits, two spaces and a path below the folder, for at most ${MAX_SUMS} files`,
      got: line.slice(0, 200),
      next: "The file is damaged; copy the folder again.",
    });
  }
  return sums;
}

/** The first file of a folder that is missing or not what SHA256SUMS says; null if all are, or there are no sums. */
export async function damagedFile(
  files: Files,
  folder: string,
  digest: MakeDigest,
): Promise<{ file: string; expected: string; got: string } | null> {
  for (const [file, expected] of (await readSums(files, folder)) ?? []) {
    const path = `${folder}/${file}`;
    const got = (await files.exists(path)) ? await sumFile(files, path, digest) : "no such file";
    if (got !== expected) return { file, expected, got };
  }
  return null;
}
