// Tensors as a checkpoint stores them, in any of its forms, and their values as float32, whole rows at a time.
import type { Files } from "../files.ts";
import { byteLength, readableDType, type StoredDType, tensorFromBytes } from "./dtypes.ts";
import { toFloat32 } from "./float.ts";
import { type BlockDType, dequantize, isBlockDType } from "./gguf/blocks.ts";
import type { TensorEntry } from "./safetensors.ts";

/** What was done to a tensor before it was stored; it is undone when values are read. */
export interface StoredLayout {
  /** Rows of so many heads, each with the two halves that rotary positions turn against each other interleaved. */
  rotaryHeads?: number;
  /** Added to each element. */
  plus?: number;
  /** [a, b] is stored as [b, a]. */
  transposed?: boolean;
}

/**
 * A tensor of a checkpoint: the real path of its file (links resolved), the absolute offset and the length in bytes. `shape` is the
 * model's.
 */
export interface CheckpointTensor extends Omit<TensorEntry, "dtype"> {
  dtype: StoredDType | BlockDType;
  file: string;
  layout?: StoredLayout;
}

/** A tensor whose bytes are its values: no blocks, and nothing to undo. */
export interface PlainTensor extends CheckpointTensor {
  dtype: StoredDType;
  layout?: undefined;
}

export const isPlain = (tensor: CheckpointTensor): tensor is PlainTensor => !tensor.layout && !isBlockDType(tensor.dtype);

/** What the bytes of a tensor are, where they can be used as they lie; null where only its numbers can be read. */
export const plainDType = (tensor: CheckpointTensor | undefined): StoredDType | null =>
  tensor && isPlain(tensor) ? tensor.dtype : null;

/** The dtype in which a tensor's changed values are written: its own, bfloat16 in the place of blocks. */
export const writtenDType = ({ dtype }: CheckpointTensor): StoredDType => (isBlockDType(dtype) ? "bfloat16" : dtype);

/** Its size in that dtype. */
export const writtenBytes = (tensor: CheckpointTensor): number => byteLength(writtenDType(tensor), tensor.shape);

/** Rows of a tensor, and bytes of each; a vector's rows are its elements. */
function rowsOf({ shape, length, layout }: CheckpointTensor): { rows: number; rowBytes: number } {
  const rows = (layout?.transposed ? shape[1] : shape[0]) ?? 1;
  return { rows, rowBytes: length / Math.max(1, rows) };
}

/**
 * The bytes of rows in the stored dtype, quantized blocks as they are, in the model's order. Not of a tensor that is stored transposed;
 * what `layout.plus` adds is for the reader to do.
 */
export async function readStoredRows(files: Files, tensor: CheckpointTensor, first: number, count: number): Promise<Uint8Array> {
  const { rows, rowBytes } = rowsOf(tensor);
  const read = (from: number, to: number) => files.read(tensor.file, tensor.offset + from * rowBytes, (to - from) * rowBytes);
  const heads = tensor.layout?.rotaryHeads;
  if (heads === undefined) return read(first, first + count);
  // Row (half, pair) of a head of `size` rows is stored as row (pair, half).
  const size = rows / heads;
  const start = Math.floor(first / size) * size;
  const stored = await read(start, Math.ceil((first + count) / size) * size);
  const out = new Uint8Array(count * rowBytes);
  for (let i = 0; i < count; i++) {
    const inHead = (first + i) % size;
    const [half, pair] = inHead < size / 2 ? [0, inHead] : [1, inHead - size / 2];
    const from = (first + i - inHead + 2 * pair + half - start) * rowBytes;
    out.set(stored.subarray(from, from + rowBytes), i * rowBytes);
  }
  return out;
}

/**
 * Rows of a tensor as float32, [count, …], all if no range is given. A dtype that holds no numbers to compute with is refused by name.
 */
export async function readRows(
  files: Files,
  tensor: CheckpointTensor,
  first = 0,
  count = (tensor.shape[0] ?? 1) - first,
): Promise<Float32Array> {
  const { dtype, shape, layout, file, offset, length } = tensor;
  const isWhole = layout?.transposed || (shape.length === 1 && isBlockDType(dtype));
  const bytes = isWhole ? await files.read(file, offset, length) : await readStoredRows(files, tensor, first, count);
  let values = valuesOf(dtype, bytes, file);
  if (layout?.transposed) values = transposed(values, shape[1]!, shape[0]!);
  if (isWhole) {
    const columns = values.length / shape[0]!;
    values = values.subarray(first * columns, (first + count) * columns);
  }
  const { plus = 0 } = layout ?? {};
  return plus === 0 ? values : values.map((value) => value + plus);
}

function valuesOf(dtype: CheckpointTensor["dtype"], bytes: Uint8Array, file: string): Float32Array {
  if (isBlockDType(dtype)) return dequantize(dtype, bytes);
  const read = readableDType(dtype, file);
  return toFloat32(tensorFromBytes(read, [], bytes));
}

/** [rows, columns] → [columns, rows]. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j]!;
  return out;
}
