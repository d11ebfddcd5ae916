// A short name for what something holds, to distinguish it from another: cyrb53 (github.com/bryc/code). Not for adversaries.

/** A short name for the content of `chunks` (cyrb53, on their numbers): differs when they differ, short of bad luck. */
export function fingerprint(chunks: Iterable<ArrayLike<number>>): string {
  const name = fingerprinter();
  for (const chunk of chunks) name.add(chunk);
  return name.end();
}

/** The same for chunks that come one by one. */
export function fingerprinter(): { add(chunk: ArrayLike<number>): void; end(): string } {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  return {
    add(chunk) {
      for (let i = 0; i < chunk.length; i++) {
        a = Math.imul(a ^ chunk[i]!, 2654435761);
        b = Math.imul(b ^ chunk[i]!, 1597334677);
      }
      a = Math.imul(a ^ chunk.length, 2654435761);
    },
    end() {
      a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
      b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
      return [a, b].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
    },
  };
}
