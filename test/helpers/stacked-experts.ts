// Checkpoints of mixtures of experts as Transformers 5 writes them with save_original_format=False: a layer's experts in two tensors.
import { readTensors } from "../../scripts/oracle/golden.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { Tensor } from "../../src/tensor.ts";

export type Tensors = Map<string, Tensor>;

/** The tensors with the experts of each layer in `gate_up_proj` [experts, 2·width, hidden] and `down_proj` [experts, hidden, width]. */
export function stacked(tensors: Tensors, [gate, up, down]: readonly string[]): Tensors {
  const out: Tensors = new Map();
  const layers = new Map<string, Map<string, Tensor>>();
  for (const [name, tensor] of tensors) {
    const [, layer, expert] = /^(.+)\.(?:mlp|block_sparse_moe)\.experts\.(.+)\.weight$/.exec(name) ?? [];
    if (layer === undefined) out.set(name.replace(".block_sparse_moe.", ".mlp."), tensor);
    else layers.set(layer, (layers.get(layer) ?? new Map()).set(expert!, tensor));
  }
  const joined = (parts: Tensor[], shape: number[]): Tensor => {
    const data = new Float32Array(parts.reduce((sum, part) => sum + part.data.length, 0));
    let at = 0;
    for (const part of parts) {
      data.set(part.data as Float32Array, at);
      at += part.data.length;
    }
    return { dtype: "float32", shape, data };
  };
  for (const [layer, experts] of layers) {
    const count = experts.size / 3;
    const [width, hidden] = experts.get(`0.${gate}`)!.shape as [number, number];
    const each = (names: string[]) =>
      Array.from({ length: count }, (_, i) => names.map((name) => experts.get(`${i}.${name}`)!)).flat();
    out.set(`${layer}.mlp.experts.gate_up_proj`, joined(each([gate!, up!]), [count, 2 * width, hidden]));
    out.set(`${layer}.mlp.experts.down_proj`, joined(each([down!]), [count, hidden, width]));
  }
  return out;
}

export const write = (file: string, tensors: Tensors) =>
  writeSafetensors(
    nodeFiles,
    file,
    [...tensors].map(([name, { dtype, shape, data }]): TensorSource => ({ name, dtype, shape, data: () => bytesOf(data) })),
    { format: "pt" },
  );

/** Writes the tensors of a file, stacked, to another one. */
export const stackExperts = async (from: string, to: string, parts: readonly string[]): Promise<void> =>
  write(to, stacked(await readTensors(from), parts));
