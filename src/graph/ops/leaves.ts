// Leaves of the graph: what the caller feeds, weights of the checkpoint, small constants, and counts made from dims.
import { addDims, type Dim, type Shape } from "../dims.ts";
import { apply1, type ElementType, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";

/** A tensor the caller feeds at every run. */
export const input = (name: string, dtype: ElementType, shape: Shape): Value => apply1("input", [], { name, dtype, shape });

/** A frozen tensor of the checkpoint, by its stored name; float32 in the graph whatever its stored precision. */
export const weight = (name: string, shape: readonly number[], dtype: ElementType = "float32"): Value =>
  apply1("weight", [], { name, dtype, shape });

/** A small tensor written into the graph. */
export const constant = (dtype: ElementType, shape: readonly number[], values: readonly number[]): Value =>
  apply1("constant", [], { dtype, shape, values });

/** A scalar of the dtype of `like`. */
export const scalar = (value: number, like: { dtype: ElementType }): Value => constant(like.dtype, [], [value]);

/** `start`, start+1, … start+size-1 as int32 [size]. */
export const iota = (size: Dim, start: Dim = 0): Value => apply1("iota", [], start === 0 ? { size } : { size, start });

export const leafRules = {
  input: {
    infer: (_, a) => [{ dtype: a.dtype, shape: a.shape }],
    vjp: () => [],
    lower: (emit, node) => [emit.input(node.attributes.name, node.outputs[0]!)],
  },
  weight: {
    infer: (_, a) => [{ dtype: a.dtype, shape: a.shape }],
    vjp: () => [],
    lower: (emit, node) => [emit.weight(node.attributes.name, node.outputs[0]!, node.attributes.of)],
  },
  constant: {
    infer: (_, a) => [{ dtype: a.dtype, shape: a.shape }],
    vjp: () => [],
    lower: (emit, node) => [emit.constant(node.attributes.dtype, node.attributes.shape, node.attributes.values)],
  },
  iota: {
    infer: (_, a) => [{ dtype: "int32", shape: [a.size] }],
    vjp: null,
    lower: (emit, node) => {
      const { size, start = 0 } = node.attributes;
      const scalarOf = (dim: Dim) => emit.node("Squeeze", [emit.cast(emit.dim(dim), "int32")]);
      const limit = scalarOf(addDims(start, size));
      const first = start === 0 ? emit.constant("int32", [], [0]) : scalarOf(start);
      return [emit.node("Range", [first, limit, emit.constant("int32", [], [1])])];
    },
  },
} satisfies Record<string, OpRule>;
