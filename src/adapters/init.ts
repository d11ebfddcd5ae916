// First values of an adapter's tensors: drawn, or from the base's weights (initializations.ts). Follows PEFT's update_layer.
import { findTensor } from "../formats/checkpoint.ts";
import { transposed } from "../formats/stored.ts";
import type { AnyBase } from "../models/base.ts";
import { normal, purpose, uniform } from "../random.ts";
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import { type Draws, drawEmbedding, initializationOf } from "./initializations.ts";
import type { AdapterModule } from "./match.ts";
import { type WeightBlocks, weightBlocks, weightTargets } from "./merge.ts";
import type { ModuleTensors } from "./method.ts";
import { methodOf } from "./method-table.ts";
import { ownName } from "./saved.ts";

/**
 * The drawn values of `modules`, by path. They depend on `seed` and on each module's place in the list; what is computed from
 * weights is zero.
 */
export function initAdapter(
  modules: readonly AdapterModule[],
  config: Pick<LoraConfig, "initLoraWeights">,
  seed: number,
): Map<string, ModuleTensors> {
  const { draw } = methodOf(config);
  const { initLoraWeights: kind } = config;
  const drawn = (module: AdapterModule, index: number) => {
    const draws = drawsOf(seed, index, module.experts);
    const factors = module.isEmbedding ? drawEmbedding(kind, module, draws) : initializationOf(kind).draw(module, draws);
    return draw(module, { ...draws, factors }) as ModuleTensors;
  };
  return new Map(modules.map((module, index) => [module.path, drawn(module, index)]));
}

/**
 * The first values of `modules`, drawn by `seed` and from the base's weights. Where those are reduced by a product of first factors,
 * the factors are there a second time, as `initialA` and `initialB`.
 */
export async function firstTensors(
  base: AnyBase,
  config: LoraConfig,
  modules: readonly AdapterModule[],
  seed: number,
): Promise<Map<string, ModuleTensors>> {
  const tensors = initAdapter(modules, config, seed);
  const method = methodOf(config);
  const { fromWeight } = initializationOf(config.initLoraWeights);
  if (!fromWeight && !method.initial) return tensors;
  const targets = weightTargets({ config, modules: [...modules], tensors }, base.modules, (name) => ownName(base, name));
  for (const module of modules) {
    const target = targets.get(module.path)!;
    const blocks = weightBlocks(base.files, findTensor(base.checkpoint, target.weightName), target);
    // B·A is zero where the weight is to be reduced: the blocks are those of the weight.
    const reduce = module.isEmbedding ? undefined : fromWeight;
    const first = reduce?.({ ...module, weight: await matrixOf(blocks) }, config.initLoraWeights, seed);
    const initial = first && { initialA: first.loraA.slice(), initialB: first.loraB.slice() };
    tensors.set(module.path, { ...tensors.get(module.path)!, ...(await method.initial?.(blocks)), ...first, ...initial });
  }
  return tensors;
}

/** The whole weight, [out, in]. */
async function matrixOf({ rows, columns, fanInFanOut, read }: WeightBlocks): Promise<Float32Array> {
  const all = new Float32Array(rows * columns);
  let at = 0;
  for await (const block of read()) {
    all.set(block, at);
    at += block.length;
  }
  return fanInFanOut ? transposed(all, rows, columns) : all;
}

/** The values of each of `count` experts are drawn as those of one. */
const drawsOf = (seed: number, index: number, count = 1): Draws => ({
  zeros: (size) => new Float32Array(count * size),
  uniform(size, bound, stream) {
    const values = uniform(seed, [purpose.init, index, stream], new Float32Array(count * size));
    return values.map((value) => (2 * value - 1) * bound);
  },
  normal: (size, deviation, stream) =>
    scaled(normal(seed, [purpose.init, index, stream], new Float32Array(count * size)), deviation),
});

/** Deviation of a new classifier's weights: Transformers' default `initializer_range`. */
const HEAD_DEVIATION = 0.02;

/** A weight of a classifier that the base lacks, as Transformers makes one: a matrix normal, a bias zero. */
export function initSaved(name: string, shape: readonly number[], seed: number): Float32Array {
  const values = new Float32Array(sizeOf(shape));
  return name.endsWith(".bias") ? values : scaled(normal(seed, [purpose.init, 0, 2], values), HEAD_DEVIATION);
}

function scaled(values: Float32Array, factor: number): Float32Array {
  for (let i = 0; i < values.length; i++) values[i]! *= factor;
  return values;
}
