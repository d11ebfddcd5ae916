// A writer of small GGUF files, which can also write what no good writer does.

type Scalar = ["uint32" | "uint64" | "float32", number] | ["string", string] | ["bool", boolean];
type Value = Scalar | ["strings", string[]] | ["int32s" | "float32s", number[]];

export interface GgufTensorInfo {
  name: string;
  /** The innermost dimension first, as in the file. */
  dims: (number | bigint)[];
  type: number;
  data: Uint8Array;
  /** In place of the right one. */
  offset?: number;
}

export interface GgufParts {
  version?: number;
  metadata?: [string, Value][];
  tensors?: GgufTensorInfo[];
  alignment?: number;
  tensorCount?: bigint;
  keyCount?: bigint;
}

const TYPES = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9, uint64: 10 };

class Writer {
  readonly parts: Buffer[] = [];
  length = 0;
  add(part: Buffer): this {
    this.parts.push(part);
    this.length += part.length;
    return this;
  }
  u32 = (value: number): this => this.add(Buffer.from(Uint32Array.of(value).buffer));
  u64 = (value: number | bigint): this => this.add(Buffer.from(BigUint64Array.of(BigInt(value)).buffer));
  f32 = (value: number): this => this.add(Buffer.from(Float32Array.of(value).buffer));
  string = (text: string): this => this.u64(Buffer.byteLength(text)).add(Buffer.from(text));
}

function addValue(out: Writer, [type, value]: Value): void {
  if (type === "string") out.u32(TYPES.string).string(value);
  if (type === "bool") out.u32(TYPES.bool).add(Buffer.of(Number(value)));
  if (type === "float32") out.u32(TYPES.float32).f32(value);
  if (type === "uint64") out.u32(TYPES.uint64).u64(value);
  if (type === "uint32") out.u32(TYPES.uint32).u32(value);
  if (type === "int32s")
    out
      .u32(TYPES.array)
      .u32(TYPES.int32)
      .u64(value.length)
      .add(Buffer.from(Int32Array.from(value).buffer));
  if (type === "float32s") {
    out
      .u32(TYPES.array)
      .u32(TYPES.float32)
      .u64(value.length)
      .add(Buffer.from(Float32Array.from(value).buffer));
  }
  if (type !== "strings") return;
  out.u32(TYPES.array).u32(TYPES.string).u64(value.length);
  for (const text of value) out.string(text);
}

/** The bytes of a GGUF file. */
export function ggufFile({ version = 3, metadata = [], tensors = [], alignment = 32, ...counts }: GgufParts): Uint8Array {
  const out = new Writer().add(Buffer.from("GGUF")).u32(version);
  out.u64(counts.tensorCount ?? tensors.length).u64(counts.keyCount ?? metadata.length);
  for (const [key, value] of metadata) {
    out.string(key);
    addValue(out, value);
  }
  const padded = (length: number) => Math.ceil(length / alignment) * alignment;
  let offset = 0;
  for (const { name, dims, type, data, offset: given } of tensors) {
    out.string(name).u32(dims.length);
    for (const dim of dims) out.u64(dim);
    out.u32(type).u64(given ?? offset);
    offset += padded(data.length);
  }
  out.add(Buffer.alloc(padded(out.length) - out.length));
  for (const { data } of tensors) out.add(Buffer.from(data)).add(Buffer.alloc(padded(data.length) - data.length));
  return new Uint8Array(Buffer.concat(out.parts));
}

/** A tensor of float32 zeros. */
export const zeros = (name: string, ...dims: number[]): GgufTensorInfo => {
  return { name, dims, type: 0, data: new Uint8Array(4 * dims.reduce((a, b) => a * b, 1)) };
};

/** gguf-py's files and the golden bases that they were made from, with matrices in float16. */
export const MODELS: Record<string, string> = {
  llama: "llama-gqa-tied",
  "llama-bias": "llama-attnbias-mlpbias",
  "llama-rope": "llama-mha-untied-llama3rope",
  qwen2: "qwen2-bias",
  qwen3: "qwen3-qknorm",
  gemma3: "gemma3-text",
  phi3: "phi3-fused",
  gpt2: "gpt2-conv1d",
};
