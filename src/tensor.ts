// Plain tensors at the borders of the graph: a dtype, a shape, a typed array. No arithmetic lives here.

export const bytesPerElement = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int64: 8,
  int32: 4,
  int16: 2,
  int8: 1,
  uint8: 1,
  bool: 1,
};
export type DType = keyof typeof bytesPerElement;

export type TensorData =
  | Float64Array
  | Float32Array
  | Uint16Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint8Array;

/** `data` holds the elements in row-major order; float16 and bfloat16 are raw 16-bit patterns in a Uint16Array. */
export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/** Number of elements of a shape; 1 for a scalar. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, dim) => product * dim, 1);

/** A float32 tensor around `data` (not copied). */
export const float32 = (shape: readonly number[], data: Float32Array): Tensor => ({ dtype: "float32", shape, data });

/** An int32 tensor from numbers. */
export const int32 = (shape: readonly number[], data: Iterable<number>): Tensor => {
  return { dtype: "int32", shape, data: Int32Array.from(data) };
};

/** Numbers as a tensor of one dimension. */
export const floatVector = (values: ArrayLike<number>): Tensor => float32([values.length], Float32Array.from(values));
export const intVector = (values: readonly number[]): Tensor => int32([values.length], values);
