// Ops that move or relabel elements without computing.
import { addDims, type Dim, elements, type Shape, sameShape } from "../dims.ts";
import { apply, apply1, expect, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { broadcastShapes, sumTo } from "./elementwise.ts";
import { scalar } from "./leaves.ts";

/** The same elements in row-major order under another shape with as many elements. */
export const reshape = (x: Value, shape: Shape): Value => apply1("reshape", [x], { shape });
/** Axis i of the result is axis `axes[i]` of `x`. */
export const transpose = (x: Value, axes: readonly number[]): Value => apply1("transpose", [x], { axes });
export const concat = (parts: readonly Value[], axis: number): Value =>
  parts.length === 1 ? parts[0]! : apply1("concat", parts, { axis });
/** Elements `start` to `end` (exclusive) of an axis whose length is a number. */
export const slice = (x: Value, axis: number, start: number, end: number): Value => apply1("slice", [x], { axis, start, end });
/** An axis of fixed length in `count` parts of the same length. Its gradient is one concatenation, where slices would each have a padded one. */
export const splitEvenly = (x: Value, axis: number, count: number): readonly Value[] =>
  count === 1 ? [x] : apply("split", [x], { axis, count });
/** `length` columns of x [rows, columns] from the one that `start` says, int32 [1]. It is data, so that it has no gradient. */
export const window = (x: Value, start: Value, length: number): Value => apply1("window", [x, start], { length });
export const broadcastTo = (x: Value, shape: Shape): Value => apply1("broadcastTo", [x], { shape });

const replaceAt = (shape: Shape, axis: number, dim: Dim): Shape => shape.map((old, i) => (i === axis ? dim : old));

const inverse = (axes: readonly number[]): number[] => axes.map((_, i) => axes.indexOf(i));

const zeros = (like: Value, shape: Shape): Value => broadcastTo(scalar(0, like), shape);

export const shapeRules = {
  reshape: {
    infer: ([x], { shape }) => {
      expect(elements(x!.shape) === elements(shape), `${elements(x!.shape)} elements do not fill [${shape.join(", ")}]`);
      return [{ dtype: x!.dtype, shape }];
    },
    vjp: ({ inputs: [x] }, [d]) => [reshape(d!, x!.shape)],
    lower: (emit, node, [x]) => [emit.reshape(x!, node.attributes.shape)],
  },
  transpose: {
    infer: ([x], { axes }) => {
      const sorted = [...axes].sort((a: number, b: number) => a - b);
      expect(sorted.length === x!.shape.length && sorted.every((axis, i) => axis === i), `axes ${axes} are no permutation`);
      return [{ dtype: x!.dtype, shape: axes.map((axis: number) => x!.shape[axis]!) }];
    },
    vjp: ({ attributes: { axes } }, [d]) => [transpose(d!, inverse(axes))],
    lower: (emit, node, [x]) => [emit.node("Transpose", [x!], { perm: node.attributes.axes })],
  },
  concat: {
    infer: (parts, { axis }) => {
      const [first] = parts;
      for (const part of parts) {
        expect(part.dtype === first!.dtype && part.shape.length === first!.shape.length, "the parts differ in dtype or rank");
        expect(
          part.shape.every((dim, i) => i === axis || dim === first!.shape[i]),
          "the parts differ outside the axis",
        );
      }
      const total = addDims(...parts.map((part) => part.shape[axis]!));
      return [{ dtype: first!.dtype, shape: replaceAt(first!.shape, axis, total) }];
    },
    vjp: ({ inputs, attributes: { axis } }, [d]) => {
      let start = 0;
      return inputs.map((part) => {
        const length = part.shape[axis];
        expect(typeof length === "number", "concat is differentiable along axes of fixed length");
        start += length;
        return slice(d!, axis, start - length, start);
      });
    },
    lower: (emit, node, inputs) => [emit.node("Concat", inputs, { axis: node.attributes.axis })],
  },
  slice: {
    infer: ([x], { axis, start, end }) => {
      const length = x!.shape[axis];
      expect(typeof length === "number", `axis ${axis} has no fixed length`);
      expect(0 <= start && start <= end && end <= length, `${start}..${end} is outside 0..${length}`);
      return [{ dtype: x!.dtype, shape: replaceAt(x!.shape, axis, end - start) }];
    },
    vjp: ({ inputs: [x], attributes: { axis, start, end } }, [d]) => {
      const length = x!.shape[axis] as number;
      const pad = (n: number) => (n === 0 ? [] : [zeros(d!, replaceAt(x!.shape, axis, n))]);
      return [concat([...pad(start), d!, ...pad(length - end)], axis)];
    },
    lower: (emit, node, [x]) => {
      const { axis, start, end } = node.attributes;
      return [emit.slice(x!, axis, emit.int64(start), emit.int64(end))];
    },
  },
  split: {
    infer: ([x], { axis, count }) => {
      const length = x!.shape[axis];
      expect(typeof length === "number" && length % count === 0, `axis ${axis} has no fixed length that ${count} divides`);
      const part = { dtype: x!.dtype, shape: replaceAt(x!.shape, axis, length / count) };
      return Array.from({ length: count }, () => part);
    },
    vjp: ({ outputs, attributes: { axis } }, gradients) => {
      const like = gradients.find((gradient) => gradient !== undefined)!;
      return [
        concat(
          outputs.map(({ shape }, i) => gradients[i] ?? zeros(like, shape)),
          axis,
        ),
      ];
    },
    lower: (emit, node, [x]) => {
      const { axis, count } = node.attributes;
      return emit.nodes("Split", [x!], count, { axis, num_outputs: count });
    },
  },
  window: {
    infer: ([x, start], { length }) => {
      expect(x!.shape.length === 2, "the input is no matrix");
      expect(start!.dtype === "int32" && sameShape(start!.shape, [1]), "the start is no int32 [1]");
      return [{ dtype: x!.dtype, shape: [x!.shape[0]!, length] }];
    },
    vjp: null,
    lower: (emit, node, [x, start]) => {
      const from = emit.cast(start!, "int64");
      const to = emit.node("Add", [from, emit.int64(node.attributes.length)]);
      return [emit.slice(x!, 1, from, to)];
    },
  },
  broadcastTo: {
    infer: ([x], { shape }) => {
      expect(
        broadcastShapes(x!.shape, shape).every((dim, i) => dim === shape[i]),
        "it does not broadcast to the shape",
      );
      return [{ dtype: x!.dtype, shape }];
    },
    vjp: ({ inputs: [x] }, [d]) => [sumTo(d!, x!.shape)],
    lower: (emit, node, [x]) => [emit.node("Expand", [x!, emit.shape(node.attributes.shape)])],
  },
} satisfies Record<string, OpRule>;
