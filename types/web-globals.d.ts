// The globals of the web that core uses beside the language itself; Node and browsers have them all.
declare class TextEncoder {
  encode(text: string): Uint8Array<ArrayBuffer>;
}
declare class TextDecoder {
  constructor(encoding?: "utf-8", options?: { fatal?: boolean; ignoreBOM?: boolean });
  decode(bytes?: Uint8Array, options?: { stream?: boolean }): string;
}
declare class URL {
  constructor(url: string, base?: string | URL);
  readonly pathname: string;
}
declare class Blob {
  constructor(parts: readonly Uint8Array[]);
  stream(): ReadableStream;
}
declare class ReadableStream {
  pipeThrough(transform: DecompressionStream): ReadableStream;
}
declare class DecompressionStream {
  constructor(format: "gzip" | "deflate" | "deflate-raw");
}
declare interface AbortSignal {
  readonly aborted: boolean;
  throwIfAborted(): void;
}
declare const AbortSignal: { any(signals: readonly AbortSignal[]): AbortSignal };
declare class AbortController {
  readonly signal: AbortSignal;
  abort(): void;
}
declare const performance: { now(): number };
declare const crypto: {
  randomUUID(): string;
  subtle: { digest(algorithm: "SHA-256", bytes: Uint8Array): Promise<ArrayBuffer> };
};
declare function btoa(binary: string): string;
declare function setTimeout(work: (value: never) => void, milliseconds: number): unknown;
declare function clearTimeout(timer: unknown): void;
