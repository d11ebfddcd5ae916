// Rows by index, and their gradient: rows added back at their index.
import { type Dim, elements } from "../dims.ts";
import { apply1, expect, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { reshape } from "./shape.ts";

/** Row `ids[...]` of a table [vocab, dim]: int32 [...] → [..., dim]. `path` is the module's name. */
export const embedding = (ids: Value, table: Value, path: string): Value => apply1("embedding", [ids, table], { path });
/** Rows of x [n, dim] at int32 indices [r] → [r, dim]. */
export const gatherRows = (x: Value, indices: Value): Value => apply1("gatherRows", [x, indices]);
/** Adds the rows of d [r, dim] into zeros [rows, dim] at int32 indices [r]; repeated indices add up. */
export const scatterAddRows = (d: Value, indices: Value, rows: Dim): Value => apply1("scatterAddRows", [d, indices], { rows });

export const indexingRules = {
  embedding: {
    infer: ([ids, table]) => {
      expect(ids!.dtype === "int32" && table!.shape.length === 2, "it takes int32 ids and a table [vocab, dim]");
      return [{ dtype: table!.dtype, shape: [...ids!.shape, table!.shape[1]!] }];
    },
    vjp: ({ inputs: [ids, table] }, [d]) => {
      const [vocab, dim] = table!.shape as [number, number];
      const rows = elements(ids!.shape);
      return [null, scatterAddRows(reshape(d!, [rows, dim]), reshape(ids!, [rows]), vocab)];
    },
    lower: (emit, _, [ids, table]) => [emit.node("Gather", [table!, ids!])],
  },
  gatherRows: {
    infer: ([x, indices]) => {
      expect(
        x!.shape.length === 2 && indices!.dtype === "int32" && indices!.shape.length === 1,
        "it takes [n, dim] and int32 [r]",
      );
      return [{ dtype: x!.dtype, shape: [indices!.shape[0]!, x!.shape[1]!] }];
    },
    vjp: ({ inputs: [x, indices] }, [d]) => [scatterAddRows(d!, indices!, x!.shape[0]!), null],
    lower: (emit, _, inputs) => [emit.node("Gather", inputs)],
  },
  scatterAddRows: {
    infer: ([d, indices], { rows }) => {
      expect(
        d!.shape.length === 2 && indices!.dtype === "int32" && indices!.shape.length === 1,
        "it takes [r, dim] and int32 [r]",
      );
      expect(d!.shape[0] === indices!.shape[0], "there is not one index a row");
      return [{ dtype: d!.dtype, shape: [rows, d!.shape[1]!] }];
    },
    vjp: ({ inputs: [, indices] }, [d]) => [gatherRows(d!, indices!), null],
    // ScatterElements adds in order; ScatterND may add repeated indices in parallel.
    lower: (emit, node, [d, indices]) => {
      const { dtype, shape } = node.outputs[0]!;
      const zeros = emit.node("Expand", [emit.constant(dtype, [], [0]), emit.shape(shape)]);
      const column = emit.node("Unsqueeze", [indices!, emit.int64(1)]);
      const everywhere = emit.node("Expand", [column, emit.shape(node.inputs[0]!.shape)]);
      return [emit.node("ScatterElements", [zeros, everywhere, d!], { axis: 0, reduction: "add" })];
    },
  },
} satisfies Record<string, OpRule>;
