// Transformers' names of modules and GGUF's names of tensors, one from the other, and the order of rows that a tensor is stored in.
import { type Architecture, architectures } from "./architectures.ts";

/** A tensor's name taken apart: the module as Transformers calls it (undefined if the architecture has none), and `weight` or `bias`. */
export function moduleName({ outside, layers, inside }: Architecture, stored: string): { module?: string; kind: string } {
  const [, layer, stem = "", kind = ""] = /^(?:blk\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(stored) ?? [];
  const names = layer === undefined ? outside : inside;
  if (!Object.hasOwn(names, stem)) return { kind };
  return { module: `${layer === undefined ? "" : `${layers}.${layer}.`}${names[stem]}`, kind };
}

/** GGUF's name of a module, without .weight and .bias; undefined if the architecture has no such. */
export function tensorName({ outside, layers, inside }: Architecture, module: string): string | undefined {
  const isInside = module.startsWith(`${layers}.`);
  const [, layer, rest] = (isInside && /^(\d+)\.(.+)$/.exec(module.slice(layers.length + 1))) || [];
  const [names, own] = layer === undefined ? [outside, module] : [inside, rest];
  const stem = Object.keys(names).find((name) => names[name] === own);
  return stem && (layer === undefined ? stem : `blk.${layer}.${stem}`);
}

/** The architecture that a model type of Transformers is written as, with its name; undefined if there is none. */
export const architectureOf = (modelType: string): [name: string, row: Architecture] | undefined =>
  Object.entries(architectures).find(([, { modelTypes }]) => modelTypes.includes(modelType));

/** Rows of whole heads with the halves of each, that rotary positions turn against each other, interleaved as ggml stores them. */
export const interleaved = (data: Float32Array, columns: number, rowsOfHead: number): Float32Array =>
  permuted(data, columns, (row) => {
    const inHead = row % rowsOfHead;
    return row - inHead + (inHead % 2) * (rowsOfHead / 2) + Math.floor(inHead / 2);
  });

/** The same undone. */
export const deinterleaved = (data: Float32Array, columns: number, rowsOfHead: number): Float32Array =>
  permuted(data, columns, (row) => {
    const inHead = row % rowsOfHead;
    const [half, pair] = inHead < rowsOfHead / 2 ? [0, inHead] : [1, inHead - rowsOfHead / 2];
    return row - inHead + 2 * pair + half;
  });

function permuted(data: Float32Array, columns: number, from: (row: number) => number): Float32Array {
  const out = new Float32Array(data.length);
  for (let row = 0; row * columns < data.length; row++) {
    const at = from(row) * columns;
    out.set(data.subarray(at, at + columns), row * columns);
  }
  return out;
}
