// First values of an adapter's tensors. Follows PEFT's reset_lora_parameters and torch.nn.init.kaiming_uniform_.
import type { Files } from "../files.ts";
import { type Checkpoint, findTensor } from "../formats/checkpoint.ts";
import { normal, purpose, uniform } from "../random.ts";
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import type { AdapterModule } from "./match.ts";
import { type MergeTarget, weightBlocks } from "./merge.ts";
import type { InitialValues, Method, ModuleTensors } from "./method.ts";
import { methodOf } from "./method-table.ts";

/**
 * The drawn values of `modules`, by path, as the method of `config` draws them: B is zero, so that the adapter changes nothing yet,
 * and A is uniform in ±1/sqrt(in), or normal with deviation 1/rank for "gaussian". With `initLoraWeights: false`, B is uniform in
 * ±1/sqrt(rank). Of an embedding A is zero and B normal. The values depend on `seed` and on each module's place in the list.
 */
export function initAdapter(
  modules: readonly AdapterModule[],
  config: Pick<LoraConfig, "initLoraWeights">,
  seed: number,
): Map<string, ModuleTensors> {
  const { draw } = methodOf(config);
  const drawn = (module: AdapterModule, index: number) =>
    draw(module, draws(config.initLoraWeights, seed, index, module.experts)) as ModuleTensors;
  return new Map(modules.map((module, index) => [module.path, drawn(module, index)]));
}

/** Of `drawn`, the first values that depend on the base's weights too: they are read, a few megabytes at a time. */
export async function withInitial(
  files: Files,
  checkpoint: Checkpoint,
  method: Method,
  drawn: ReadonlyMap<string, ModuleTensors>,
  targets: ReadonlyMap<string, MergeTarget>,
): Promise<Map<string, ModuleTensors>> {
  const complete = new Map(drawn);
  for (const [path, target] of method.initial ? targets : []) {
    const blocks = weightBlocks(files, findTensor(checkpoint, target.weightName), target);
    complete.set(path, { ...drawn.get(path)!, ...(await method.initial!(blocks)) });
  }
  return complete;
}

/** The values of each of `count` experts are drawn as those of one. */
const draws = (kind: LoraConfig["initLoraWeights"], seed: number, index: number, count = 1): InitialValues => ({
  kind,
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
