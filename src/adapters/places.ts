// Where adapters sit, if not beside a linear layer with a matrix of its own: what that makes of a module's tensors. Convolutions and
// parameters of experts, as PEFT 0.21.2 has them (tuners/lora/layer.py: _ConvNd, ParamWrapper).
import { LowrankError } from "../errors.ts";
import { type Dim, divideDim, elements, mulDims, type Shape, sameShape } from "../graph/dims.ts";
import type { Value } from "../graph/graph.ts";
import type { LayerPlace } from "../graph/ops/linear.ts";
import { reshape, splitEvenly, transpose } from "../graph/ops/shape.ts";
import type { ExpertPart, ModuleInfo } from "../models/module.ts";
import type { LoraConfig } from "./config.ts";
import type { AdapterModule } from "./match.ts";
import type { Method, MethodTensor, ModuleTensors } from "./method.ts";

/** What a module is, if no linear layer. */
export interface ModulePlace {
  /** An embedding: its inputs are its rows. */
  isEmbedding?: true;
  /** A convolution, [channels, height, width]: its inputs are what its kernel reads. */
  kernel?: readonly number[];
  /** A parameter of so many experts, each a linear layer with an A and a B of its own. */
  experts?: number;
}

export const placeOf = ({ kind, kernel, experts }: ModuleInfo): ModulePlace => ({
  ...(kind === "embedding" && { isEmbedding: true }),
  ...(kernel && { kernel }),
  ...(experts !== undefined && { experts }),
});

/** What a module is called by its place. */
export const placeName = ({ isEmbedding, kernel, experts }: ModulePlace): string => {
  if (isEmbedding) return "an embedding";
  if (kernel) return `a convolution of ${kernel.join(" × ")}`;
  return experts === undefined ? "a linear layer" : `a parameter of ${experts} experts`;
};

/**
 * The shape in PEFT's file of a module's tensor. A of a convolution has its kernel, B is one of 1 × 1. A of experts is
 * [experts·rank, in], row e·rank + k for rank k of expert e; B is [out, rank·experts], column k·experts + e.
 */
export function storedShape({ group, shape }: MethodTensor, { kernel, experts }: ModulePlace): Shape {
  if (kernel) {
    if (group === "A") return [shape[0]!, ...kernel];
    if (group === "B") return shape.length === 2 ? [...shape, 1, 1] : shape;
    return [1, ...shape, 1, 1];
  }
  if (experts === undefined) return shape;
  return group === "A" ? [mulDims(shape[0]!, experts), shape[1]!] : [shape[0]!, mulDims(shape[1]!, experts)];
}

/** What finds the tensors of one layer of a graph, as matrices and vectors, among those of its module as they are stored. */
export function layerTensors() {
  const known = new Map<Value, readonly Value[]>();
  const once = (value: Value, make: () => readonly Value[]): readonly Value[] => {
    const made = known.get(value) ?? make();
    known.set(value, made);
    return made;
  };
  return (tensors: ModuleTensors<Value>, { kernel, experts, expert, half }: LayerPlace): ModuleTensors<Value> => {
    if (kernel) {
      const flat = (value: Value, shape: Shape) => (sameShape(value.shape, shape) ? value : reshape(value, shape));
      const others = Object.entries(tensors).map(([name, value]) => [name, flat(value, [elements(value.shape)])]);
      const { loraA, loraB } = tensors;
      const rank = loraA.shape[0]!;
      return {
        ...Object.fromEntries(others),
        loraA: flat(loraA, [rank, elements(kernel)]),
        loraB: flat(loraB, [loraB.shape[0]!, rank]),
      };
    }
    if (experts === undefined) return tensors;
    const { loraA, loraB } = tensors;
    const rank = divideDim(loraA.shape[0]!, experts);
    const [out, columns] = [Number(loraB.shape[0]), loraA.shape[1]!];
    const halves = half === undefined ? 1 : 2;
    const allA = once(loraA, () => parts(reshape(loraA, [experts, rank, columns]), experts));
    const allB = once(loraB, () => {
      const byExpert = transpose(reshape(loraB, [out, rank, experts]), [2, 0, 1]); // [experts, out, rank]
      return parts(reshape(byExpert, [experts * halves, out / halves, rank]), experts * halves);
    });
    return { loraA: allA[expert!]!, loraB: allB[expert! * halves + (half ?? 0)]! };
  };
}

/** The matrices of x [count, rows, columns]. */
const parts = (x: Value, count: number): Value[] => {
  const shape: Dim[] = x.shape.slice(1);
  return splitEvenly(x, 0, count).map((part) => reshape(part, shape));
};

/** The A and B of one expert of a parameter, [rank, in] and [out, rank]: all of its rows, or one half of them. */
export function expertFactors(
  { loraA, loraB }: Pick<ModuleTensors, "loraA" | "loraB">,
  { rank, experts = 1, inFeatures, outFeatures }: AdapterModule,
  { expert, half }: Pick<ExpertPart, "expert" | "half">,
): Pick<ModuleTensors, "loraA" | "loraB"> {
  if (experts === 1) return { loraA, loraB };
  const rows = half === undefined ? outFeatures : outFeatures / 2;
  const first = rows * (half ?? 0);
  const own = new Float32Array(rows * rank);
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < rank; k++) own[row * rank + k] = loraB[((first + row) * rank + k) * experts + expert]!;
  const size = rank * inFeatures;
  return { loraA: loraA.subarray(expert * size, (expert + 1) * size), loraB: own };
}

/** The factors of each update that a module has: one, or one of each expert. */
export const updatesOf = (module: AdapterModule, tensors: ModuleTensors): Pick<ModuleTensors, "loraA" | "loraB">[] =>
  Array.from({ length: module.experts ?? 1 }, (_, expert) => expertFactors(tensors, module, { expert }));

/** Fails for modules that a method can't adapt which acts on some tokens alone. */
export function checkGated({ title, gate }: Method, modules: readonly ModuleInfo[]): void {
  const other = gate && modules.find((module) => module.isOutputEmbedding || placeName(placeOf(module)) !== "a linear layer");
  if (!other) return;
  throw new LowrankError("lora/unsupported", `${title} can't adapt this module.`, {
    subject: other.path,
    expected: "linear layers before the output layer",
    got: other.isOutputEmbedding ? "the output layer" : placeName(placeOf(other)),
    next: "Leave it out of the targets.",
  });
}

/** Fails for an adapter on parameters, which `what` is not done for. */
export function refuseParameters({ targetParameters }: Pick<LoraConfig, "targetParameters">, what: string): void {
  if (!targetParameters?.length) return;
  throw new LowrankError("lora/unsupported", `Adapters on parameters can't be ${what}.`, {
    subject: "target_parameters",
    expected: "an adapter on modules alone, as in PEFT",
    got: targetParameters.join(", "),
    next: "Merge the adapter into its base, and use that.",
  });
}
