// What a row of the operator table says about an op.
import type { Emitter } from "./emitter.ts";
import type { Attributes, Node, Type, Value } from "./graph.ts";

// biome-ignore lint/suspicious/noExplicitAny: each rule narrows the attributes of its own op
export type OwnAttributes = any;

export interface OpRule {
  /** The types of the outputs; throws a TypeProblem (through `expect`) for inputs the op cannot take. */
  infer(inputs: readonly Type[], attributes: OwnAttributes & Attributes): readonly Type[];
  /**
   * Vector-Jacobian product: from the gradients of the outputs (undefined where none arrives) to those of the inputs
   * (null where an input has none). What nobody asks for is never reached, so rules build all of them.
   * `null` declares the op not differentiable.
   */
  vjp:
    | null
    | ((node: Node & { attributes: OwnAttributes }, gradients: readonly (Value | undefined)[]) => readonly (Value | null)[]);
  /** Emits ONNX nodes; `inputs` and the result are ONNX value names. */
  lower(emit: Emitter, node: Node & { attributes: OwnAttributes }, inputs: readonly string[]): readonly string[];
}
