// What a way of adapting a layer is: LoRA, and the variants of it that PEFT has. Each is a row of methods/index.ts.
import type { z } from "zod";
import type { Dim, Shape } from "../graph/dims.ts";
import type { Value } from "../graph/graph.ts";
import type { Tensor } from "../tensor.ts";
import type { Draws } from "./initializations.ts";
import type { AdapterModule } from "./match.ts";
import type { WeightBlocks } from "./merge.ts";
import type { ModulePlace } from "./places.ts";

/** A field of the adapter's configuration that belongs to one method. It is an option of training too, under the same name. */
export interface MethodField {
  /** Its name in adapter_config.json. */
  peftName: string;
  schema: z.ZodType;
  /** What `lowrank train --help` says of it, a flag that turns it on. */
  help: string;
  /** How help writes its value, and whether a list has commas between its items; as for an option (options.ts). */
  value?: string;
  commas?: boolean;
  /** Of ids of tokens: the option of training that gives them as text. */
  text?: { name: string; help: string };
}

/** A tensor beside a layer. */
export interface MethodTensor {
  name: string;
  /** What it is to optimizers: LoRA+ has learning rates for A and B. */
  group?: TensorGroup;
  /** [rank, …], […, rank] or without the rank. */
  shape: Shape;
  /** Whether the module's scale multiplies it. */
  scaled?: boolean;
  /** The value of each element where no adapter is attached. 0 if absent; one with the rank in its shape is empty then. */
  off?: number;
}

/** One that is trained: it is stored, and a part of θ. */
export interface TrainedTensor extends MethodTensor {
  /** The end of its key in the adapter's file, behind the module's path. */
  key: string;
  /** What it is to optimizers: LoRA+ has learning rates for A and B. */
  group: TensorGroup;
}

/** "initial" are factors whose product is subtracted from the base. */
export type TensorGroup = "A" | "B" | "weight" | "initial";

/** Sizes of an adapted module: A is [rank, inFeatures], B is [outFeatures, rank]. */
export type ModuleShape = Pick<AdapterModule, "inFeatures" | "outFeatures" | keyof ModulePlace>;

/** The tensors of a module by name. Every method has the two factors. */
export type ModuleTensors<T = Float32Array> = { loraA: T; loraB: T } & Record<string, T>;

/** A layer in a graph. An embedding is one whose input rows are one-hot: its weight is the transposed table. */
export interface Layer {
  /** What the frozen layer computes, [n, out]. */
  y: Value;
  /** The frozen weight, [out, in]. */
  weight: Value;
  bias?: Value;
  /** Whether `product` and `low` read an input with elements dropped. */
  hasDropout: boolean;
  /** input · weightᵀ, without the bias: [n, out]. */
  product(): Value;
  /** input · loraAᵀ: [n, rank]. */
  low(loraA: Value): Value;
  scale: number;
}

/** A row of the table. */
export interface Method {
  /** What it is called. */
  title: string;
  /** What it does, in a line. */
  about: string;
  fields: Record<string, MethodField>;
  /** Whether a configuration asks for it, by the values of its fields; the row without it is used where no other is. */
  isUsed?(fields: Record<string, unknown>): boolean;
  /** Throws `lora/unsupported` for the fields of a configuration that does not go with the method. */
  check?(fields: Record<string, unknown>): void;
  /** Whether embeddings can be adapted. */
  takesEmbeddings: boolean;
  /** PEFT's type of the only tasks that it is for; all if absent. */
  taskType?: string;
  /** What is trained of a module. */
  tensors(module: ModuleShape, rank: Dim): TrainedTensor[];
  /** The first values of `tensors`, but for those that `initial` gives. */
  draw(module: AdapterModule, how: InitialValues): Record<string, Float32Array>;
  /** First values that depend on the frozen weight; `blocks` has weight + scale · B·A. */
  initial?(blocks: WeightBlocks): Promise<Record<string, Float32Array>>;
  /**
   * Tensors that are computed from the trained ones and the frozen weight: at every step of training, and once for an adapter that
   * is attached. `replaces` are the trained tensors that `update` then does not read.
   */
  derived?: {
    tensors(module: ModuleShape): MethodTensor[];
    replaces: readonly string[];
    compute(layer: Pick<Layer, "weight" | "scale">, tensors: ModuleTensors<Value>): Record<string, Value>;
  };
  /**
   * Which tokens of a batch the adapter acts on, [rows·width]: A·x is multiplied by 1 or 0. `fields` are those of the configuration. All tokens
   * if absent.
   */
  gate?(fields: Record<string, unknown>, batch: Record<string, Tensor>): Int32Array;
  /** What takes the place of the layer's output, [n, out], from the trained and the derived tensors. */
  update(layer: Layer, tensors: ModuleTensors<Value>): Value;
  /** Why an adapter can't be merged; it can if absent. */
  noMerge?: string;
  /** The merged weight in blocks of rows, from those of weight + scale · B·A; those themselves if absent. */
  merge?(blocks: WeightBlocks, tensors: ModuleTensors): AsyncIterable<Float32Array>;
  /** What merging adds to the layer's bias, times the module's scale: [out]. */
  mergeBias?(tensors: ModuleTensors): Float32Array;
}

/** How first values are drawn. */
export interface InitialValues extends Draws {
  /** Those of the two factors, as init_lora_weights has them drawn (initializations.ts). */
  factors: { loraA: Float32Array; loraB: Float32Array };
}

/** A variant that is known and not built: its field is refused when it is on, and its tensors are named. */
export interface UnbuiltMethod {
  peftName: string;
  /** The field's value when it is off. */
  written: unknown;
  why: string;
  /** The ends of its tensors' keys. */
  keys?: RegExp;
}

/** A line of the table for a variant that is not built. */
export const unbuilt = (peftName: string, written: unknown, why: string, keys?: RegExp): UnbuiltMethod => {
  return { peftName, written, why, ...(keys && { keys }) };
};
