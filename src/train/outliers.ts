// The columns of layers' inputs that stand out, which integer products keep in float32: found by one forward pass over a batch.
import type { Batch } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { type Graph, nodesOf, type Value } from "../graph/graph.ts";
import { columnsAt, standingOut } from "../graph/ops/rotated.ts";
import { transpose } from "../graph/ops/shape.ts";
import type { Program } from "../graph/stages.ts";
import { layerWeight, OUTLIERS, outlierInput } from "../graph/store.ts";
import { unique } from "../graph/unique.ts";
import type { Engine } from "../runtime/open-graph.ts";
import type { Tensor } from "../tensor.ts";
import { openForward } from "./forward.ts";

export interface OutlierSource extends Pick<Engine, "openSession" | "threads"> {
  checkpoint: Checkpoint;
  /** The loss without an adapter: what stands out is the base's. */
  loss: Graph;
  /** The run's first batch, also when it is resumed later: the places are the same then. */
  first?: () => Promise<Batch>;
}

/** The inputs of `program` that say where outliers are, and hold the rows of weights there; none if it has no such products. */
export async function findOutliers(program: Program, source: OutlierSource): Promise<Record<string, Tensor>> {
  const names = new Set(
    program.stages.flatMap(({ inputs }) =>
      inputs.flatMap(({ source: from }) => (from.kind === "feed" && outlierInput(from.name) ? [from.name] : [])),
    ),
  );
  if (names.size === 0) return {};
  const { loss, checkpoint, openSession, threads, first } = source;
  if (!first)
    throw new LowrankError("train/option", "rotated weights need a batch that shows what stands out", { subject: "first" });
  const session = await openForward(outliersOf(loss, names), checkpoint, { openSession, threads, stages: true }, byPlaces);
  try {
    return await session.run((await first()).feeds);
  } finally {
    await session.close();
  }
}

/** A stage for each layer's input: what is read of it comes with it. */
function byPlaces(outputs: Graph["outputs"]): Graph["outputs"][] {
  const groups = new Map<string, Record<string, Value>>();
  for (const [name, value] of Object.entries(outputs)) {
    const { at } = outlierInput(name)!;
    groups.set(at, { ...groups.get(at), [name]: value });
  }
  return [...groups.values()];
}

/** A graph of the inputs of these names, in the order in which a forward pass comes to them. */
function outliersOf(loss: Graph, names: ReadonlySet<string>): Graph {
  const layers = nodesOf(unique(loss)).flatMap((node) => {
    const [x, weight] = node.inputs;
    const name = weight?.node.op === "weight" ? layerWeight(node, weight.node) : null;
    return name === null ? [] : [{ x: x!, weight: weight!, name }];
  });
  const wanted = [...names].map((name) => ({ name, ...outlierInput(name)! }));
  const outputs: Record<string, Value> = {};
  const places = new Map<Value, Value>();
  for (const { x, name: at } of layers) {
    const own = wanted.filter((one) => one.at === at && !(one.name in outputs));
    if (own.length === 0) continue;
    const known = places.get(x) ?? standingOut(x, OUTLIERS);
    places.set(x, known);
    for (const { name, of } of own) {
      const weight = layers.find((layer) => layer.name === of)?.weight;
      outputs[name] = weight ? transpose(columnsAt(weight, known), [1, 0]) : known; // [OUTLIERS, out]
    }
  }
  return { outputs };
}
