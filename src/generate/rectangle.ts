// Rectangles of a batch's rows, row-major in flat arrays.

/** Columns `start` to `end` (exclusive, or the last) of a rectangle [rows, width, depth]. */
export function columns(rows: number, all: Int32Array, start: number, end: number, depth = 1): Int32Array<ArrayBuffer> {
  const width = all.length / rows;
  const [from, to] = [start * depth, Math.min(end * depth, width)];
  const part = new Int32Array(rows * (to - from));
  for (let row = 0; row < rows; row++) {
    part.set(all.subarray(row * width + from, row * width + to), (row * part.length) / rows);
  }
  return part;
}

/** Two rectangles of as many rows, side by side. */
export function beside(rows: number, left: Int32Array, right: Int32Array): Int32Array<ArrayBuffer> {
  const [a, b] = [left.length / rows, right.length / rows];
  const both = new Int32Array(left.length + right.length);
  for (let row = 0; row < rows; row++) {
    both.set(left.subarray(row * a, (row + 1) * a), row * (a + b));
    both.set(right.subarray(row * b, (row + 1) * b), row * (a + b) + a);
  }
  return both;
}
