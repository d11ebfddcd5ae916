// Rows by index and their gradient, rows added back at their index; and the choice of rows that a mixture of experts makes.
import { type Dim, elements } from "../dims.ts";
import { apply, apply1, expect, type Type, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { cast, equal, mul, where } from "./elementwise.ts";
import { constant, scalar } from "./leaves.ts";
import { reshape } from "./shape.ts";

/**
 * Row `ids[...]` of a table [vocab, dim]: int32 [...] → [..., dim]. `path` is the module's name; the row at `padding` gets no
 * gradient (torch's `padding_idx`).
 */
export const embedding = (ids: Value, table: Value, path: string, padding: number | null = null): Value =>
  apply1("embedding", [ids, table], padding === null ? { path } : { path, padding });
/** Rows of x [n, dim] at int32 indices [r] → [r, dim]. */
export const gatherRows = (x: Value, indices: Value): Value => apply1("gatherRows", [x, indices]);
/** Adds the rows of d [r, dim] into zeros [rows, dim] at int32 indices [r]; repeated indices add up. */
export const scatterAddRows = (d: Value, indices: Value, rows: Dim): Value => apply1("scatterAddRows", [d, indices], { rows });

/**
 * The `count` greatest elements of each row of x [n, width], zeros elsewhere, and where they are: bool [n, width]. Of equal
 * elements the first are kept.
 */
export function keepTop(x: Value, count: number): { kept: Value; chosen: Value } {
  const [kept, chosen] = apply("keepTop", [x], { count });
  return { kept: kept!, chosen: chosen! };
}
/** The rows of a bool column [n, 1] that are true, in order: int32 [rows]. `rows` is a symbol that no input carries. */
export const rowsWhere = (column: Value, rows: string): Value => apply1("rowsWhere", [column], { rows });
/**
 * The last `count` places of x [batch, seq, width], all of them if it is 0: int64 [] → [batch, places, width]. `places` is a symbol that no
 * input carries.
 */
export const lastOf = (x: Value, count: Value, places: string): Value => apply1("lastOf", [x, count], { places });

function takesRows(x: Type, indices: Type): void {
  const fits = x.shape.length === 2 && indices.dtype === "int32" && indices.shape.length === 1;
  expect(fits, "it takes rows [n, dim] and int32 indices [r]");
}

export const indexingRules = {
  embedding: {
    infer: ([ids, table]) => {
      expect(ids!.dtype === "int32" && table!.shape.length === 2, "it takes int32 ids and a table [vocab, dim]");
      return [{ dtype: table!.dtype, shape: [...ids!.shape, table!.shape[1]!] }];
    },
    vjp: ({ inputs: [ids, table], attributes: { padding } }, [d]) => {
      const [vocab, dim] = table!.shape;
      const rows = elements(ids!.shape);
      const flat = reshape(ids!, [rows]);
      const each = reshape(d!, [rows, dim!]);
      if (padding === undefined) return [null, scatterAddRows(each, flat, vocab!)];
      const isPadding = reshape(equal(flat, constant("int32", [], [padding])), [rows, 1]);
      return [null, scatterAddRows(where(isPadding, scalar(0, each), each), flat, vocab!)];
    },
    lower: (emit, _, [ids, table]) => [emit.node("Gather", [table!, ids!])],
  },
  gatherRows: {
    infer: ([x, indices]) => {
      takesRows(x!, indices!);
      return [{ dtype: x!.dtype, shape: [indices!.shape[0]!, x!.shape[1]!] }];
    },
    vjp: ({ inputs: [x, indices] }, [d]) => [scatterAddRows(d!, indices!, x!.shape[0]!), null],
    lower: (emit, _, inputs) => [emit.node("Gather", inputs)],
  },
  scatterAddRows: {
    infer: ([d, indices], { rows }) => {
      takesRows(d!, indices!);
      expect(d!.shape[0] === indices!.shape[0], "there is not one index a row");
      return [{ dtype: d!.dtype, shape: [rows, d!.shape[1]!] }];
    },
    vjp: ({ inputs: [, indices] }, [d]) => [gatherRows(d!, indices!), null],
    // ScatterElements adds in order; ScatterND may add repeated indices in parallel.
    lower: (emit, node, [d, indices]) => {
      const { dtype, shape } = node.outputs[0]!;
      const zeros = emit.node("Expand", [emit.constant(dtype, [], [0]), emit.shape(shape)]);
      const column = emit.node("Unsqueeze", [indices!, emit.int64(1)]);
      const everywhere = emit.node("Expand", [column, emit.node("Shape", [d!])]);
      return [emit.node("ScatterElements", [zeros, everywhere, d!], { axis: 0, reduction: "add" })];
    },
  },
  keepTop: {
    infer: ([x], { count }) => {
      const width = x!.shape[1];
      expect(x!.shape.length === 2 && typeof width === "number" && count <= width, "it takes [n, width] and a count up to width");
      return [x!, { dtype: "bool", shape: x!.shape }];
    },
    vjp: ({ outputs: [kept, chosen] }, [d]) => [mul(d!, cast(chosen!, kept!.dtype))],
    lower: (emit, node, [x]) => {
      const { dtype, shape } = node.outputs[0]!;
      const [, places] = emit.nodes("TopK", [x!, emit.int64(node.attributes.count)], 2, { axis: 1, largest: 1, sorted: 1 });
      const [none, one] = [emit.constant(dtype, [], [0]), emit.constant(dtype, [], [1])];
      const ones = emit.node("Expand", [one, emit.node("Shape", [places!])]);
      const zeros = emit.node("Expand", [none, emit.shape(shape)]);
      const chosen = emit.node("ScatterElements", [zeros, places!, ones], { axis: 1 });
      return [emit.node("Mul", [x!, chosen]), emit.cast(chosen, "bool")];
    },
  },
  rowsWhere: {
    infer: ([column], { rows }) => {
      expect(column!.dtype === "bool" && column!.shape.length === 2 && column!.shape[1] === 1, "it takes bool [n, 1]");
      return [{ dtype: "int32", shape: [rows] }];
    },
    vjp: null,
    lower: (emit, _, [column]) => {
      const both = emit.node("NonZero", [column!]); // int64 [2, rows]: row and column of each
      const first = emit.node("Squeeze", [emit.slice(both, 0, emit.int64(0), emit.int64(1)), emit.int64(0)]);
      return [emit.cast(first, "int32")];
    },
  },
  lastOf: {
    infer: ([x, count], { places }) => {
      expect(
        x!.shape.length === 3 && count!.dtype === "int64" && count!.shape.length === 0,
        "it takes x [batch, seq, width] and int64 []",
      );
      return [{ dtype: x!.dtype, shape: [x!.shape[0]!, places, x!.shape[2]!] }];
    },
    vjp: null,
    lower: (emit, _, [x, count]) => {
      const start = emit.node("Neg", [emit.reshape(count!, [1])]); // 0 is the first
      return [emit.slice(x!, 1, start, emit.int64(Number.MAX_SAFE_INTEGER))];
    },
  },
} satisfies Record<string, OpRule>;
