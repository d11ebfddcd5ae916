// The images of prompts in generation: they are encoded once, in a session of its own that opens when the first image comes.

import { adaptableSession } from "../adapters/adaptable.ts";
import type { DecoderConfig } from "../models/config/config.ts";
import type { Vision } from "../models/images.ts";
import { weightFiles } from "../models/weights.ts";
import { float32, int32, sizeOf, type Tensor } from "../tensor.ts";
import type { DecoderOptions } from "./decoder.ts";
import { columns } from "./rectangle.ts";
import type { PromptBatch } from "./types.ts";

/** The images of prompts, as the inputs of `placedApart`. */
export interface PromptImages {
  /** For the columns `start` to `end` (exclusive) of the prompts. */
  columns(start: number, end: number): Record<string, Tensor>;
  /** For a token behind the prompts. */
  step(): Record<string, Tensor>;
}

/** The vision side of a model with images; nothing is opened yet. */
export function imageEncoder(vision: Vision<DecoderConfig>, { checkpoint, config, openSession, threads }: DecoderOptions) {
  const pixels = vision.pixels(config);
  const graph = { outputs: { features: vision.encode(config, pixels).features } };
  const { session, useAdapter, close } = adaptableSession(graph, weightFiles(checkpoint), { openSession, threads });
  return {
    async encode({ rows, width, ids, images }: PromptBatch): Promise<PromptImages> {
      const feeds = vision.feeds(config, { rows, width, inputIds: ids }, images ?? null);
      const read = Object.fromEntries(Object.keys(pixels).map((name) => [name, feeds[name]!]));
      const features = images ? (await (await session()).run(read))["features"]! : noFeatures(vision, config, rows);
      return vision.attends ? attended(features, feeds["imageAttention"]!) : inPlace(features, feeds["imageRows"]!, width);
    },
    useAdapter,
    close,
  };
}

/** Features that stand for no image: none at all, or those of one that no token sees. */
function noFeatures(vision: Vision<DecoderConfig>, config: DecoderConfig, rows: number): Tensor {
  const { perImage, width } = vision.features(config);
  const shape = vision.attends ? [rows, perImage, width] : [0, width];
  return float32(shape, new Float32Array(sizeOf(shape)));
}

/** Features [image tokens, hidden] in the place of tokens at these flat places: each goes to the columns that hold its place. */
function inPlace({ data, shape }: Tensor, places: Tensor, width: number): PromptImages {
  const hidden = shape[1]!;
  const feeds = (indices: number[], row: (place: number) => number): Record<string, Tensor> => {
    const features = new Float32Array(indices.length * hidden);
    for (const [to, from] of indices.entries()) {
      features.set((data as Float32Array).subarray(from * hidden, (from + 1) * hidden), to * hidden);
    }
    const rows = indices.map((i) => row(Number(places.data[i])));
    return { imageFeatures: float32([indices.length, hidden], features), imageRows: int32([indices.length], rows) };
  };
  return {
    columns(start, end) {
      const last = Math.min(end, width);
      const within = [...places.data.keys()].filter((i) => {
        const column = Number(places.data[i]) % width;
        return column >= start && column < last;
      });
      return feeds(within, (place) => Math.floor(place / width) * (last - start) + (place % width) - start);
    },
    step: () => feeds([], () => 0),
  };
}

/** Features that tokens attend to: [rows, width, images] says which. A token behind the prompt sees what the prompt's last one does. */
function attended(imageFeatures: Tensor, seen: Tensor): PromptImages {
  const [rows, width, images] = seen.shape as [number, number, number];
  const part = (start: number, end: number) => {
    const data = columns(rows, seen.data as Int32Array, start, end, images);
    return { imageFeatures, imageAttention: int32([rows, data.length / rows / images, images], data) };
  };
  return { columns: part, step: () => part(width - 1, width) };
}
