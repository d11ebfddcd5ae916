// Graph → Graph: of tables that are looked up at ids which a batch feeds, the rows at these ids alone are leaves.
import { elements } from "./dims.ts";
import { apply1, type Graph, rewrite, type Value } from "./graph.ts";
import { reshape } from "./ops/shape.ts";

/** Tables of fewer elements stay whole. */
const SMALL = 2 ** 20;

/** Whether a value is a leaf that holds a weight, or a part of one, with all its rows. */
const isWhole = ({ node: { op, attributes } }: Value): boolean => op === "weight" && attributes["total"] === undefined;

/** The feed that has the elements of int32 `ids`, in their order; null if they are computed. */
function feedOf(ids: Value): string | null {
  const { op, inputs, attributes } = ids.node;
  if (op === "reshape") return feedOf(inputs[0]!);
  return op === "input" ? String(attributes["name"]) : null;
}

/** Leaves that hold rows of weights, each made once. */
function rowLeaves() {
  const known = new Map<string, Value>();
  return (whole: Value, name: string, rows: Value["shape"][number], which: Record<string, number | string>): Value => {
    const { attributes } = whole.node;
    const { of = attributes["name"]!, form, part = 0 } = attributes;
    const own = `${attributes["name"]} ${name}`;
    const leaf =
      known.get(own) ??
      apply1("weight", [], {
        ...{ name: own, dtype: whole.dtype, shape: [rows, ...whole.shape.slice(1)], of, part, total: Number(whole.shape[0]) },
        ...(form !== undefined && { form }),
        ...which,
      });
    known.set(own, leaf);
    return leaf;
  };
}

/** The graph in which rows of large tables are looked up before it runs. */
export function lookUpRows(graph: Graph): Graph {
  const leaf = rowLeaves();
  return rewrite(graph, ({ op, outputs }, [ids, table]) => {
    if (op !== "embedding" || !isWhole(table!) || (elements(table!.shape) as number) < SMALL) return null;
    const feed = feedOf(ids!);
    if (feed === null) return null;
    const rows = leaf(table!, `at ${feed}`, elements(ids!.shape), { at: feed });
    return [reshape(rows, outputs[0]!.shape)];
  });
}
