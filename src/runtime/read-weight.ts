// A stored weight as the bytes that a stage is given, block by block: nothing is twice in memory.
import type { Files } from "../files.ts";
import { fromFloat32, toFloat32 } from "../formats/float.ts";
import { readTensor, type TensorEntry } from "../formats/safetensors.ts";
import type { ElementType } from "../graph/graph.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import type { WeightSource } from "./session.ts";

/** Elements of a weight that are converted at once: 4 MB of float32. */
const BLOCK_ELEMENTS = 2 ** 20;

/** The elements of a weight in `dtype`, row-major. */
export async function readWeight(files: Files, source: WeightSource, name: string, dtype: ElementType): Promise<Uint8Array> {
  const stored = source.locate(name);
  const file = `${source.folder}/${stored.location}`;
  if (stored.dtype === dtype) return files.read(file, stored.offset, stored.length);
  const elements = sizeOf(stored.shape);
  const width = stored.length / elements;
  const out = new Uint8Array(elements * bytesPerElement[dtype]);
  for (let start = 0; start < elements; start += BLOCK_ELEMENTS) {
    const count = Math.min(BLOCK_ELEMENTS, elements - start);
    const block = { ...stored, shape: [count], offset: stored.offset + start * width, length: count * width };
    const values = toFloat32(await readTensor(files, file, block as TensorEntry & typeof block));
    const { buffer, byteOffset, byteLength } = fromFloat32(values, dtype);
    out.set(new Uint8Array(buffer, byteOffset, byteLength), start * bytesPerElement[dtype]);
  }
  return out;
}
