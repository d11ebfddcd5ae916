// Initial values of an adapter's factors. Follows PEFT's reset_lora_parameters and torch.nn.init.kaiming_uniform_.
import { normal, purpose, uniform } from "../random.ts";
import { sizeOf } from "../tensor.ts";
import type { LoraConfig } from "./config.ts";
import type { AdapterModule } from "./match.ts";

/** The trainable factors of one module, row-major: loraA is [rank, inFeatures], loraB is [outFeatures, rank]. */
export interface LoraFactors {
  loraA: Float32Array;
  loraB: Float32Array;
}

/**
 * Factors for `modules`, by path: B is zero, so that the adapter changes nothing yet, and A is uniform in ±1/sqrt(in),
 * or normal with deviation 1/rank for "gaussian". With `initLoraWeights: false`, B is uniform in ±1/sqrt(rank).
 * The values depend on `seed` and on each module's place in the list.
 */
export function initAdapter(
  modules: readonly AdapterModule[],
  { initLoraWeights }: Pick<LoraConfig, "initLoraWeights">,
  seed: number,
): Map<string, LoraFactors> {
  const factors = modules.map(({ path, rank, inFeatures, outFeatures }, index): [string, LoraFactors] => {
    const loraA = new Float32Array(rank * inFeatures);
    const loraB = new Float32Array(outFeatures * rank);
    if (initLoraWeights === "gaussian") scaleBy(normal(seed, [purpose.init, index, 0], loraA), 1 / rank);
    // kaiming_uniform_ with a = sqrt(5) has the bound 1/sqrt(columns); a new torch.nn.Linear starts with it.
    else fillSymmetric(loraA, seed, index, 0, 1 / Math.sqrt(inFeatures));
    if (initLoraWeights === false) fillSymmetric(loraB, seed, index, 1, 1 / Math.sqrt(rank));
    return [path, { loraA, loraB }];
  });
  return new Map(factors);
}

/** Deviation of a new classifier's weights: Transformers' default `initializer_range`. */
const HEAD_DEVIATION = 0.02;

/** A weight of a classifier that the base lacks, as Transformers makes one: a matrix normal, a bias zero. */
export function initSaved(name: string, shape: readonly number[], seed: number): Float32Array {
  const values = new Float32Array(sizeOf(shape));
  if (!name.endsWith(".bias")) scaleBy(normal(seed, [purpose.init, 0, 2], values), HEAD_DEVIATION);
  return values;
}

function scaleBy(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i]! *= factor;
}

/** Fills `values` with numbers uniform in ±`bound`. */
function fillSymmetric(values: Float32Array, seed: number, index: number, factor: 0 | 1, bound: number): void {
  uniform(seed, [purpose.init, index, factor], values);
  for (let i = 0; i < values.length; i++) values[i] = (2 * values[i]! - 1) * bound;
}
