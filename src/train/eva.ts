// EVA on a run's own data: the inputs of the adapted layers in forward passes over its first batches, and the adapter that they make.
import { type EvaInput, evaOf } from "../adapters/eva.ts";
import { type AdapterModule, patternsOf, shortestEndings } from "../adapters/match.ts";
import type { ModuleTensors } from "../adapters/method.ts";
import type { Adapter } from "../adapters/peft-files.ts";
import type { Batch } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import { type Graph, nodesOf, type Value } from "../graph/graph.ts";
import { gatherRows } from "../graph/ops/indexing.ts";
import { input } from "../graph/ops/leaves.ts";
import { unique } from "../graph/unique.ts";
import type { AnyBase } from "../models/base.ts";
import { int32, type Tensor } from "../tensor.ts";
import { byOutputs, type ForwardEngine, openForward } from "./forward.ts";

/** Rows of what has one for each token of a padded batch. */
const TOKENS = "batch*seq";
/** The input that says which of those are looked at. */
const ROWS = "evaRows";
/** Inputs of layers that are fetched at once, in bytes, about. */
const FETCH_BYTES = 2 ** 28;

interface LayerInput extends EvaInput {
  /** [rows, size] */
  value: Value;
}

/**
 * `drawn`, an adapter with PEFT's usual first values, as EVA begins it: A and the ranks of its linear layers by their inputs in the
 * batches of `batchOf`, without an adapter. Layers that the loss does not read keep what was drawn; one that gets no rank is left out.
 */
export async function evaAdapter(
  drawn: Adapter,
  base: AnyBase,
  loss: Graph,
  batchOf: (step: number) => Promise<Batch>,
  engine: ForwardEngine,
): Promise<Adapter> {
  const eva = drawn.config.evaConfig!;
  const inputs = layerInputs(loss, drawn.modules);
  const session = await openForward(inputsGraph(inputs), base.checkpoint, engine, byOutputs);
  const read = async (step: number, wanted: readonly number[]) => {
    const batch = await batchOf(step);
    const feeds = { ...batch.feeds, [ROWS]: rowsOf(batch, eva.use_label_mask) };
    const found = new Map<number, Float32Array>();
    for (const some of together(wanted, inputs, batch)) {
      const results = await session.run(feeds, { fetches: some.map(String) });
      for (const i of some) found.set(i, results[String(i)]!.data as Float32Array);
    }
    return found;
  };
  try {
    return withRanks(drawn, base, await evaOf(inputs, eva, read), eva.adjust_scaling_factors);
  } finally {
    await session.close();
  }
}

/** What the adapted linear layers read, each value once. */
function layerInputs(loss: Graph, modules: readonly AdapterModule[]): LayerInput[] {
  const ranks = new Map(modules.flatMap(({ path, rank, isEmbedding }) => (isEmbedding ? [] : [[path, rank] as const])));
  const found = new Map<Value, LayerInput>();
  for (const { op, inputs, attributes } of nodesOf(unique(loss))) {
    if (op !== "linear" && op !== "linearCrossEntropy") continue;
    const path = String(attributes["path"]);
    const rank = ranks.get(path);
    const value = inputs[0]!;
    if (rank === undefined) continue;
    const { readers = [] } = found.get(value) ?? {};
    found.set(value, { value, size: Number(value.shape[1]), readers: [...readers, { path, rank }] });
  }
  return [...found.values()];
}

/** A graph whose output `i` is the i-th input's rows. */
function inputsGraph(inputs: readonly LayerInput[]): Graph {
  const chosen = input(ROWS, "int32", ["evaRows"]);
  const outputs = inputs.map(({ value }, i) => [i, value.shape[0] === TOKENS ? gatherRows(value, chosen) : value] as const);
  return { outputs: Object.fromEntries(outputs) };
}

/** The tokens that are looked at: the targets, or all but padding. */
function rowsOf({ feeds }: Batch, onlyTargets: boolean): Tensor {
  const { lossRows, attentionMask, inputIds } = feeds;
  // A target is predicted from the token before it.
  if (onlyTargets && lossRows)
    return int32(
      lossRows.shape,
      Int32Array.from(lossRows.data as Int32Array, (row) => row + 1),
    );
  const count = inputIds?.data.length ?? 0;
  const rows = Array.from({ length: count }, (_, i) => i).filter((i) => attentionMask?.data[i] !== 0);
  return int32([rows.length], rows);
}

/** Inputs in groups that are fetched at once. */
function* together(wanted: readonly number[], inputs: readonly LayerInput[], { tokens }: Batch): Generator<number[]> {
  let [group, bytes]: [number[], number] = [[], 0];
  for (const i of wanted) {
    const own = 4 * tokens * inputs[i]!.size;
    if (group.length > 0 && bytes + own > FETCH_BYTES) {
      yield group;
      [group, bytes] = [[], 0];
    }
    group.push(i);
    bytes += own;
  }
  yield group;
}

/** The adapter with other ranks and A, its configuration as PEFT writes it then. */
function withRanks(
  drawn: Adapter,
  base: AnyBase,
  { ranks, loraA }: Awaited<ReturnType<typeof evaOf>>,
  adjustsScale: boolean,
): Adapter {
  const { config } = drawn;
  const modules = drawn.modules.flatMap((module): AdapterModule[] => {
    const rank = ranks.get(module.path) ?? module.rank;
    if (rank === 0) return [];
    const alpha = adjustsScale ? (module.alpha * rank) / module.rank : module.alpha;
    return [{ ...module, rank, alpha, scale: alpha / (config.useRslora ? Math.sqrt(rank) : rank) }];
  });
  if (modules.length === 0) {
    throw new LowrankError("train/eva", "the inputs of the adapted layers do not vary", {
      subject: "init",
      expected: "batches with different tokens",
      got: "no rank for any layer",
      next: "Train on more data, or begin otherwise (--init true).",
    });
  }
  const tensors = new Map(
    modules.map(({ path, rank, outFeatures }): [string, ModuleTensors] => {
      const own = drawn.tensors.get(path)!;
      const isFound = ranks.has(path);
      return [path, isFound ? { ...own, loraA: loraA(path), loraB: new Float32Array(outFeatures * rank) } : own];
    }),
  );
  const isWhole = modules.length === drawn.modules.length;
  const paths = modules.map(({ path }) => path);
  return {
    ...drawn,
    config: {
      ...config,
      ...(!isWhole && {
        targetModules: shortestEndings(paths, base.modules, { from: 1 }),
        excludeModules: null,
        layersToTransform: null,
        layersPattern: null,
      }),
      ...patternsOf(modules, config),
    },
    modules,
    tensors,
  };
}
