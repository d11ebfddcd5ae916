// Graph → Graph: frozen weights in another form than float32, widened where they are read.
import { elements, type Shape } from "./dims.ts";
import { apply, apply1, type Graph, rewrite, type Value } from "./graph.ts";
import { withParts } from "./ops/loss.ts";
import { reshape } from "./ops/shape.ts";
import { type FormName, forms, widened } from "./ops/stored.ts";

/** A weight's form by its name and shape; null for float32. */
export type ChooseForm = (name: string, shape: readonly number[]) => FormName | null;

/** The name of a weight's part, which `WeightSource` knows by the leaf's other attributes. */
export const partName = (name: string, form: FormName, part: number): string => `${name} ${form}.${part}`;

/**
 * The graph with the weights that `choose` has a form for as parts in that form. Of a table of embeddings only the rows that are
 * looked up are widened, and of an output layer a chunk at a time.
 */
export function storeWeights(graph: Graph, choose: ChooseForm): Graph {
  return rewrite(graph, ({ op, attributes }, inputs) => {
    if (op === "weight") {
      const name = String(attributes["name"]);
      const shape = attributes["shape"] as number[];
      const form = shape.length === 2 ? choose(name, shape) : null;
      if (form === null) return null;
      const parts = forms[form].parts(shape[0]!, shape[1]!).map(({ dtype, shape }, part) => {
        return apply1("weight", [], { name: partName(name, form, part), dtype, shape, of: name, form, part });
      });
      return [widened(parts, form)];
    }
    const fused = op === "linearCrossEntropy" ? withParts(inputs, attributes) : null;
    if (fused) return apply(op, fused.inputs, fused.attributes);
    const table = op === "embedding" ? inputs[1]!.node : undefined;
    if (table?.op !== "widen") return null;
    const [ids] = inputs as [Value, Value];
    const flat = reshape(ids, [elements(ids.shape)]);
    const rows = table.inputs.map((part) => apply1("embedding", [flat, part], attributes));
    const out: Shape = [...ids.shape, inputs[1]!.shape[1]!];
    return [reshape(widened(rows, table.attributes["form"] as FormName), out)];
  });
}
