// What rules lower their ops with: ONNX nodes, by the names of their outputs (onnx/emitter.ts collects them).
import type { Dim, Shape } from "./dims.ts";
import type { ElementType, Type, Value } from "./graph.ts";

export type AttributeValue = number | string | boolean | readonly number[];
export type NodeAttributes = Record<string, AttributeValue>;

/** alpha · op(a) · op(b), where op transposes or does nothing. */
export interface ProductFlags {
  transA?: boolean;
  transB?: boolean;
  alpha?: number;
}

export interface Emitter {
  /** Whether anything reads the value; a rule may leave unread outputs out. */
  isUsed(value: Value): boolean;
  /** One ONNX node with one output. */
  node(opType: string, inputs: readonly string[], attributes?: NodeAttributes): string;
  nodes(opType: string, inputs: readonly string[], outputs: number, attributes?: NodeAttributes): string[];
  /** `node` for bookkeeping on shapes and masks that many ops repeat: equal calls share one node. */
  shared(opType: string, inputs: readonly string[], attributes?: NodeAttributes): string;
  constant(dtype: ElementType, shape: readonly number[], values: readonly number[]): string;
  /** One integer as int64 [1], the form ONNX takes bounds and axes in. */
  int64(value: number): string;
  input(name: string, type: Type): string;
  /**
   * A stored tensor, converted to the graph's dtype if it is kept in another; ONNX Runtime folds the conversion when it loads. Or a part
   * of the tensor `of`.
   */
  weight(name: string, type: Type, of?: string): string;
  /** The run-time value of a dim, int64 [1]. */
  dim(dim: Dim): string;
  /** A shape as int64 [rank]. */
  shape(shape: Shape): string;
  /** Reshape to `shape`; a single symbolic dim is left to ONNX Runtime to find. */
  reshape(x: string, shape: Shape): string;
  cast(x: string, to: ElementType): string;
  slice(x: string, axis: number, start: string, end: string): string;
  concat(parts: readonly string[], axis: number): string;
  sum(parts: readonly string[]): string;
  /** alpha · op(a) · op(b) over the last two axes; `type` has the dtype and the batch rank. */
  matmul(type: Type, a: string, b: string, how: ProductFlags): string;
}
