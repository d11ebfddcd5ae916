// Reading a golden folder: tensors, and the batches that its inputs and labels stand for.
import { z } from "zod";
import type { ThetaEntry } from "../../src/adapters/layout.ts";
import { type PaddedRows, rowFeeds } from "../../src/data/batch.ts";
import { type Batch, IGNORE } from "../../src/data/types.ts";
import { LowrankError } from "../../src/errors.ts";
import { isFloat, toFloat32 } from "../../src/formats/float.ts";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import type { DecoderConfig } from "../../src/models/config/config.ts";
import { visionOf } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { float32, int32, sizeOf, type Tensor } from "../../src/tensor.ts";

/** All tensors of a safetensors file. */
export async function readTensors(path: string): Promise<Map<string, Tensor>> {
  const { tensors } = await readHeader(nodeFiles, path);
  const read = [...tensors].map(
    async ([name, entry]): Promise<[string, Tensor]> => [name, await readTensor(nodeFiles, path, entry)],
  );
  return new Map(await Promise.all(read));
}

/** Every tensor as numbers: floats in float32, integers as they are. */
export function numbersOf(tensors: ReadonlyMap<string, Tensor>): Map<string, Float32Array | Int32Array> {
  return new Map([...tensors].map(([name, tensor]) => [name, isFloat(tensor.dtype) ? toFloat32(tensor) : integers(tensor)]));
}

export const integers = ({ data }: Tensor): Int32Array => Int32Array.from(data as Iterable<number | bigint>, Number);

/** Prefixes of the batches in an io file: "" for a single one, "micro0." and so on, "segment0." for parts of a packed row. */
export const batchPrefixes = (io: ReadonlyMap<string, Tensor>): string[] =>
  [
    ...new Set([...io.keys()].flatMap((name) => /^(.*\.)?(?:anchor_)?(?:input_ids|pixel_values)$/.exec(name)?.slice(1, 2) ?? [])),
  ].map((prefix = "") => prefix);

/**
 * The batch that Transformers computed from `<prefix>input_ids` [rows, width] and, where given, attention_mask,
 * position_ids and labels. Without position_ids, positions count columns, padding included. position_ids without a mask
 * are those of a packed row: a sequence begins wherever they do not go on by one. `config` is the model's, for its images.
 */
export function batchOf(io: ReadonlyMap<string, Tensor>, prefix: string, config: DecoderConfig): Batch {
  const ids = io.get(`${prefix}input_ids`)!;
  const [rows, width] = ids.shape as [number, number];
  const given = (name: string) => {
    const tensor = io.get(`${prefix}${name}`);
    return tensor && integers(tensor);
  };
  const mask = given("attention_mask");
  const positions = given("position_ids");
  const labels = given("labels");
  const targets = [...(labels?.keys() ?? [])].filter((i) => i % width > 0 && labels![i] !== IGNORE);
  const tokens = {
    rows,
    width,
    inputIds: integers(ids),
    positionIds: positions ?? defaultPositions(config, mask, rows, width),
    attentionMask: mask ?? new Int32Array(rows * width).fill(1),
    segmentIds: positions && !mask ? segments(positions, width) : new Int32Array(rows * width),
  };
  const places = (values: number[]) => int32([targets.length], values);
  return {
    feeds: {
      ...rowFeeds(tokens),
      lossRows: places(targets.map((i) => i - 1)),
      lossLabels: places(targets.map((i) => labels![i]!)),
      ...imagesOf(io, prefix, config, tokens),
    },
    targets: targets.length,
    tokens: rows * width,
  };
}

/** Columns, padding included; IDEFICS counts the tokens that are no padding. */
function defaultPositions(config: DecoderConfig, mask: Int32Array | undefined, rows: number, width: number): Int32Array {
  const positions = Int32Array.from({ length: rows * width }, (_, i) => i % width);
  if (config.modelType !== "idefics" || !mask) return positions;
  let before = 0;
  return positions.map((column, i) => {
    if (column === 0) before = 0;
    return mask[i] === 1 ? before++ : 1;
  });
}

/** What `<prefix>pixel_values` and the masks beside it are fed as to the vision side of `config`; nothing where there are none. */
function imagesOf(
  io: ReadonlyMap<string, Tensor>,
  prefix: string,
  config: DecoderConfig,
  tokens: PaddedRows,
): Record<string, Tensor> {
  const pixelValues = io.get(`${prefix}pixel_values`);
  if (!pixelValues) return {};
  const mask = (name: string) => {
    const tensor = io.get(`${prefix}${name}`);
    return tensor && int32(tensor.shape, integers(tensor));
  };
  const tensors = {
    pixelValues: float32(pixelValues.shape, toFloat32(pixelValues)),
    pixelAttentionMask: mask("pixel_attention_mask"),
    imageAttentionMask: mask("image_attention_mask"),
  };
  return visionOf(config)!.feeds(config, tokens, tensors);
}

function segments(positions: Int32Array, width: number): Int32Array {
  const ids = new Int32Array(positions.length);
  for (let i = 0; i < ids.length; i++) {
    if (i % width > 0) ids[i] = ids[i - 1]! + (positions[i] === positions[i - 1]! + 1 ? 0 : 1);
  }
  return ids;
}

/** Blocks as one vector. */
export async function joined(blocks: AsyncIterable<Float32Array>, size: number): Promise<Float32Array> {
  const all = new Float32Array(size);
  let at = 0;
  for await (const block of blocks) {
    all.set(block, at);
    at += block.length;
  }
  return all;
}

/** θ with the tensors of an adapter file. */
export function thetaOf(entries: readonly ThetaEntry[], tensors: ReadonlyMap<string, Tensor>): Float32Array {
  const theta = new Float32Array(entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0));
  for (const { key, offset } of entries) {
    const tensor = tensors.get(key);
    if (!tensor) throw new LowrankError("oracle/missing", "the adapter's file lacks a tensor", { subject: key });
    theta.set(toFloat32(tensor), offset);
  }
  return theta;
}

/** The keys of a file that an entry is found under. */
export const keysOf = ({ key, copies = [] }: ThetaEntry): string[] => [key, ...copies];

/** The parts of θ, or of its gradient, by key. */
export const partsOf = (entries: readonly ThetaEntry[], theta: Float32Array): Map<string, Float32Array> =>
  new Map(
    entries.flatMap((entry) => {
      const part = theta.subarray(entry.offset, entry.offset + sizeOf(entry.shape));
      return keysOf(entry).map((key) => [key, part] as const);
    }),
  );

/** `value` as what a meta.json must hold; a file that holds something else is refused with the key. */
export function parseMeta<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new LowrankError("oracle/meta", "meta.json is not in the goldens' format", { got: z.prettifyError(parsed.error) });
}
